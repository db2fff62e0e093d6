"""Arrays for another project's model, from its names and shapes alone: the same everywhere.

``RandomState``'s stream never changes, so a golden file needs to hold only what comes out.
"""

import zlib

import numpy as np

SAMPLES = 1000


def golden_arrays(shapes, gain):
    """An array for every name, whose scale (``gain``) lets activations, and so images, differ."""
    return {name: _draw(name, tuple(shape), gain) for name, shape in shapes.items()}


def _draw(name, shape, gain):
    random = np.random.RandomState(zlib.crc32(name.encode()))
    if name.endswith("running_var"):
        value = np.exp(random.normal(0, 0.3, shape))
    elif name.endswith(("running_mean", "bias")):
        value = random.normal(0, 0.2, shape)
    elif len(shape) == 1:
        value = random.normal(0.8, 0.2, shape)
    else:
        fan_in = shape[-1] if len(shape) < 4 else np.prod(shape[1:])
        value = random.normal(0, (gain / fan_in) ** 0.5, shape)
    return value.astype(np.float32)


def golden_images(size):
    """Two images, NHWC: patches of colour, which differ at every scale, under noise."""
    random = np.random.RandomState(0)
    patches = random.normal(size=(2, 8, 8, 3)).repeat(size // 8, axis=1).repeat(size // 8, axis=2)
    return (patches + 0.3 * random.normal(size=(2, size, size, 3))).astype(np.float32)


def sampled(features):
    """Some values of an array, NHWC, at places that depend on its size alone."""
    places = np.random.RandomState(0).randint(0, features.size, SAMPLES)
    return features.reshape(-1)[places]

"""What BIGBALLON/distribuuuu's own botnet50 computes, recorded, because it is no package.

    cd tests && python -m reference.distribuuuu CHECKOUT

writes the file anew; CHECKOUT is a checkout of theirs, and needs einops. Parameters and images are
made from names and shapes, so that the file holds only what comes out.
"""

import json
import sys
import zlib
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parents[1] / "goldens/distribuuuu_botnet50.npz"
SIZE, LABELS = (64, 96), (3, 5)
STAGES = (4, 5, 6, 7)
"""The parts of their chain whose outputs are the stages'."""
# The scale at which activations, and so the images' outputs, differ.
GAIN = 1.4


def parameters(shapes):
    """An array for every name. ``RandomState``'s stream never changes."""
    return {name: _draw(name, tuple(shape)) for name, shape in shapes.items()}


def _draw(name, shape):
    random = np.random.RandomState(zlib.crc32(name.encode()))
    if name.endswith("running_var"):
        value = np.exp(random.normal(0, 0.3, shape))
    elif name.endswith(("running_mean", "bias")):
        value = random.normal(0, 0.2, shape)
    elif len(shape) == 1:
        value = random.normal(0.8, 0.2, shape)
    else:
        fan_in = shape[-1] if len(shape) < 4 else np.prod(shape[1:])
        value = random.normal(0, (GAIN / fan_in) ** 0.5, shape)
    return value.astype(np.float32)


def images():
    return np.random.RandomState(0).normal(size=(2, *SIZE, 3)).astype(np.float32)


def sampled(array, count=1000):
    """Some values of an array, at places that depend on its size alone."""
    places = np.random.RandomState(0).randint(0, array.size, count)
    return array.reshape(-1)[places]


def sampled_gradients(gradients):
    """Some values of every parameter's gradient, in the order of their names."""
    return np.stack([sampled(gradients[name], 64) for name in sorted(gradients)])


def record(checkout):
    """Run their network, forward and backward, and write down what comes out."""
    import torch

    # What lets torchvision be imported where its operators are missing.
    import reference.timm_networks  # noqa: F401
    from conversion.peers import torch_outputs

    sys.path.insert(0, str(checkout))
    # Their code moves to a GPU what it makes, and multiplies a view in place, which PyTorch no
    # longer differentiates.
    torch.Tensor.cuda = lambda tensor: tensor
    torch.Tensor.__imul__ = torch.Tensor.__mul__
    from distribuuuu.models.botnet import BoTStack, botnet50

    network = botnet50()
    grid = tuple(side // 16 for side in SIZE)
    network[7] = BoTStack(dim=1024, fmap_size=grid, stride=1, rel_pos_emb=True)
    state = network.eval().state_dict()
    shapes = {
        name: tuple(array.shape) for name, array in state.items() if "num_batches" not in name
    }
    arrays = {name: torch.from_numpy(array) for name, array in parameters(shapes).items()}
    network.load_state_dict(arrays, strict=True)
    stages = [network[index] for index in STAGES]
    logits, features, of_images, of_parameters = torch_outputs(network, stages, images(), LABELS)
    np.savez_compressed(
        GOLDEN,
        shapes=np.array(json.dumps(shapes)),
        logits=logits,
        features=np.stack([sampled(feature) for feature in features]),
        input_gradient=sampled(of_images),
        gradients=sampled_gradients(of_parameters),
    )


if __name__ == "__main__":
    record(Path(sys.argv[1]))

"""The classes of ImageNet-1k, in the order of its labels."""

import functools
from importlib import resources

CLASSES_FILE = "embedded/imagenet_classes.tsv"


@functools.cache
def class_names() -> tuple[str, ...]:
    """The 1,000 names, each once."""
    return tuple(names_of_synsets().values())


@functools.cache
def names_of_synsets() -> dict[str, str]:
    """From a synset, which is what ImageNet's folders are called, to the name of its class."""
    file = resources.files("bottleneck_transformer_flax.data").joinpath(CLASSES_FILE)
    lines = file.read_text(encoding="utf-8").splitlines()
    return {synset: name for synset, name in (line.split("\t") for line in lines)}

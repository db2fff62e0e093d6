"""ImageNet's classes are those of timm, in the order of the labels."""

from bottleneck_transformer_flax.data import imagenet
from reference.timm_networks import timm


def test_the_classes_in_order():
    info = timm.data.ImageNetInfo()
    assert list(imagenet.names_of_synsets()) == info.label_names()
    names = imagenet.class_names()
    assert len(set(names)) == len(names) == 1000
    for index, (synset, name) in enumerate(imagenet.names_of_synsets().items()):
        first = info.index_to_description(index).partition(",")[0]
        assert name in (first, f"{first} ({synset})")

"""The proof from outside: T3 computes what timm's independent implementation computes."""

import functools

import jax
import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict, unflatten_dict

from bottleneck_transformer_flax.benchmarking.timm_networks import timm_network
from bottleneck_transformer_flax.checkpoints.rules.conversion import to_ours
from bottleneck_transformer_flax.checkpoints.rules.timm import rules
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.cost import abstract_variables, count_parameters
from bottleneck_transformer_flax.models.variants import get_config
from reference.forms import FORMS, in_form
from reference.timm_models import randomize

SIZE = (64, 64)
CONFIG = get_config("botnet_t3")


@functools.cache
def theirs():
    """timm's network with random weights, images, and its logits for them."""
    network = timm_network(CONFIG, SIZE)
    randomize(network, seed=0)
    images = np.random.default_rng(0).normal(size=(2, *SIZE, 3)).astype(np.float32)
    with torch.no_grad():
        logits = network(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    return network, images, logits


@pytest.mark.parametrize("form", FORMS)
def test_t3_gives_the_logits_of_timm(record_property, form):
    network, images, expected = theirs()
    state = {
        name.replace(".shortcut.inner.", ".shortcut."): tensor.numpy()
        for name, tensor in network.state_dict().items()
        if "num_batches" not in name
    }
    shapes = flatten_dict(abstract_variables(BoTNet(config=CONFIG), SIZE), sep=".")
    imported = unflatten_dict(to_ours(list(rules(CONFIG)), state, shapes), sep=".")
    model, variables = in_form(form, BoTNet(config=CONFIG), imported)
    logits = np.asarray(jax.jit(model.apply)(variables, images))

    difference = float(np.abs(logits - expected).max())
    record_property("largest_difference", difference)
    print(f"{form}: largest difference of T3's logits from timm's: {difference:.2e}")
    assert 0.1 < expected.std() < 100
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)


def test_timm_counts_the_parameters_of_t3_and_t6():
    for name, size in (("botnet_t3", 224), ("botnet_t6", 320)):
        config = get_config(name)
        network = timm_network(config, (size, size))
        count = sum(parameter.numel() for parameter in network.parameters())
        assert count == count_parameters(abstract_variables(BoTNet(config=config), (size, size)))

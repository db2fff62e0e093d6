"""The proof from outside: T3 computes what timm's independent implementation computes, and learns.

What learns is a shorter T3 of the same parts, with small residual branches as when training begins:
through large ones rounding errors grow from block to block.
"""

import functools

import jax
import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict, unflatten_dict

from bottleneck_transformer_flax.conversion.mapping import to_flax, to_torch
from bottleneck_transformer_flax.conversion.timm import mapping
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.flops import abstract_variables
from bottleneck_transformer_flax.models.variants import get_config
from reference.forms import BACKEND_FORMS, FORMS, in_form
from reference.timm_networks import load_network, randomize, timm_network
from reference.variables import random_variables

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


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_t3_gives_the_logits_of_timm(form):
    network, images, expected = theirs()
    state = {
        name.replace(".shortcut.inner.", ".shortcut."): tensor.numpy()
        for name, tensor in network.state_dict().items()
        if "num_batches" not in name
    }
    shapes = flatten_dict(abstract_variables(BoTNet(config=CONFIG), SIZE), sep=".")
    imported = unflatten_dict(to_flax(list(mapping(CONFIG)), state, shapes), sep=".")
    model, variables = in_form(form, BoTNet(config=CONFIG), imported)
    logits = np.asarray(jax.jit(model.apply)(variables, images))

    assert 0.1 < expected.std() < 100
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("form", BACKEND_FORMS)
def test_a_training_step_has_the_gradients_and_statistics_of_timm(form):
    config = get_config("botnet_t3", stage_sizes=(2, 2, 2, 2))
    drawn = random_variables(abstract_variables(BoTNet(config=config), (64, 96)))
    weights = {
        name: np.asarray(leaf) * np.float32(0.2 if name.endswith("expand.norm.scale") else 1)
        for name, leaf in flatten_dict(drawn, sep=".").items()
    }
    random = np.random.default_rng(1)
    images, labels = random.normal(size=(4, 64, 96, 3)), random.integers(1000, size=4)
    images = images.astype(np.float32)

    network = load_network(config, (64, 96), to_torch(list(mapping(config)), weights)).train()
    their_logits = network(torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))))
    their_loss = torch.nn.functional.cross_entropy(their_logits, torch.from_numpy(labels))
    their_loss.backward()
    theirs = {
        name.replace(".inner.", "."): tensor.numpy()
        for name, tensor in (
            *((name, value.grad) for name, value in network.named_parameters()),
            *((name, value) for name, value in network.named_buffers() if "mean" in name),
        )
    }

    model, variables = in_form(form, BoTNet(config=config), unflatten_dict(weights, sep="."))

    def loss(params):
        logits, state = model.apply(
            variables | {"params": params}, images, train=True, mutable=["batch_stats"]
        )
        of_labels = jax.nn.log_softmax(logits)[np.arange(len(labels)), labels]
        return -of_labels.mean(), state["batch_stats"]

    (our_loss, statistics), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(
        variables["params"]
    )
    moved = jax.device_get({"params": gradients, "batch_stats": statistics})
    ours = to_torch(list(mapping(config)), flatten_dict(moved, sep="."))
    compared = [name for name in ours if not name.endswith("running_var")]
    # PyTorch's running variance is of n − 1 positions, Flax's of n.
    assert set(compared) == set(theirs)
    assert abs(our_loss - their_loss.item()) < 1e-5
    for name in compared:
        difference = np.abs(ours[name] - theirs[name]).max()
        assert difference < 1e-4 * np.abs(theirs[name]).max(), name

"""timm's variants: their checkpoints become ours and back, and compute what timm computes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict, unflatten_dict

from bottleneck_transformer_flax.conversion import timm as rules_of_timm
from bottleneck_transformer_flax.conversion.mapping import to_ours, to_theirs
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.variants import VARIANTS
from reference.forms import BACKEND_FORMS, FOLDED, FORMS, in_form
from reference.small_models import variant_shapes
from reference.timm_models import randomize, timm_model

NAMES = ("botnet26t_256", "sebotnet33ts_256", "botnet50ts_256", "eca_botnext26ts_256")
# One of them quickly, the others among the slow tests.
COMPUTED = [NAMES[1], *(pytest.param(NAMES[index], marks=pytest.mark.slow) for index in (0, 2, 3))]
SIZE = 256


@functools.cache
def randomized(name):
    network = timm_model(name)
    randomize(network, seed=0)
    return network


@functools.cache
def state_of(name):
    state = randomized(name).state_dict()
    return {key: value.numpy() for key, value in state.items() if "num_batches" not in key}


@functools.cache
def imported(name):
    rules = list(rules_of_timm.rules(VARIANTS[name].config))
    return to_ours(rules, state_of(name), flatten_dict(variant_shapes(name), sep="."))


def images():
    random = np.random.default_rng(0)
    return random.normal(size=(1, SIZE, SIZE, 3)).astype(np.float32)


@functools.cache
def their_outputs(name):
    """(logits, features of the stages, gradient of the input, gradients of the parameters)."""
    network, features = randomized(name), []
    hooks = [
        stage.register_forward_hook(lambda module, inputs, output: features.append(output))
        for stage in network.stages
    ]
    pixels = torch.from_numpy(images().transpose(0, 3, 1, 2)).requires_grad_()
    logits = network(pixels)
    torch.nn.functional.cross_entropy(logits, torch.tensor([3])).backward()
    for hook in hooks:
        hook.remove()
    gradients = {key: value.grad.numpy() for key, value in network.named_parameters()}
    return (
        logits.detach().numpy(),
        [feature.detach().numpy().transpose(0, 2, 3, 1) for feature in features],
        pixels.grad.numpy().transpose(0, 2, 3, 1),
        gradients,
    )


@functools.cache
def our_outputs(name, form="auto"):
    variables = jax.tree.map(jnp.asarray, unflatten_dict(imported(name), sep="."))
    model, variables = in_form(form, BoTNet(config=VARIANTS[name].config), variables)

    def loss(params, pixels):
        logits = model.apply(variables | {"params": params}, pixels)
        return -jax.nn.log_softmax(logits)[0, 3], logits

    def everything(params, pixels):
        features = model.apply(variables, pixels, method="feature_maps")
        if form == FOLDED:
            return loss(params, pixels)[1], features, None
        gradients, logits = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, pixels)
        return logits, features, gradients

    return jax.device_get(jax.jit(everything)(variables["params"], jnp.asarray(images())))


def relative(ours, theirs):
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize("name", COMPUTED)
@pytest.mark.parametrize("form", FORMS)
def test_logits_and_features_are_those_of_timm(name, form):
    expected, expected_features, _, _ = their_outputs(name)
    logits, features, _ = our_outputs(name, form)
    assert 0.1 < expected.std() < 100
    difference = float(np.abs(logits - expected).max())
    by_stage = [
        relative(ours, theirs)
        for ours, theirs in zip(features.values(), expected_features, strict=True)
    ]
    print(
        f"{name}, {form}: logits {difference:.1e}, features",
        *(f"{value:.1e}" for value in by_stage),
    )
    assert difference < 1e-4
    assert max(by_stage) < 1e-4


@pytest.mark.parametrize("name", COMPUTED)
@pytest.mark.parametrize("form", BACKEND_FORMS)
def test_gradients_are_those_of_timm(name, form):
    _, _, expected_input, expected = their_outputs(name)
    _, _, (gradients, of_input) = our_outputs(name, form)
    rules = list(rules_of_timm.rules(VARIANTS[name].config))
    flat = flatten_dict(gradients, sep=".")
    ours = {f"params.{path}": leaf for path, leaf in flat.items()}
    theirs = to_theirs([rule for rule in rules if rule.ours[0] in ours], ours)
    attention = next(key for key in theirs if key.endswith("qkv.weight"))
    table = next(key for key in theirs if key.endswith("height_rel"))
    chosen = ("stem.conv1.conv.weight", attention, table)
    by_name = [relative(theirs[key], expected[key]) for key in chosen]
    of_all = max(relative(theirs[key], expected[key]) for key in theirs)
    print(
        f"{name}: gradient of the input {relative(of_input, expected_input):.1e}, of",
        *(f"{key} {value:.1e}" for key, value in zip(chosen, by_name, strict=True)),
        f"largest of all {of_all:.1e}",
    )
    assert relative(of_input, expected_input) < 1e-3
    assert max(by_name) < 1e-3
    assert of_all < 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_there_and_back_is_bit_for_bit(name):
    back = to_theirs(list(rules_of_timm.rules(VARIANTS[name].config)), imported(name))
    assert back.keys() == state_of(name).keys()
    for key, array in state_of(name).items():
        np.testing.assert_array_equal(back[key], array, err_msg=key)
        assert back[key].dtype == array.dtype


@pytest.mark.parametrize("name", NAMES)
def test_timm_loads_the_way_back(name):
    back = to_theirs(list(rules_of_timm.rules(VARIANTS[name].config)), imported(name))
    network = timm_model(name)
    network.load_state_dict(
        {key: torch.from_numpy(value.copy()) for key, value in back.items()}, strict=True
    )
    with torch.no_grad():
        pixels = torch.from_numpy(images().transpose(0, 3, 1, 2))
        np.testing.assert_array_equal(network(pixels).numpy(), randomized(name)(pixels).numpy())

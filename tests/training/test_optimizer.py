"""Schedule and decay mask by hand, updates of the real model against NumPy."""

import math
from pathlib import Path
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.flops import abstract_variables
from bottleneck_transformer_flax.training.config import OptimizerName, OptimizerOptions
from bottleneck_transformer_flax.training.optimizer import (
    decay_mask,
    learning_rate_schedule,
    make_optimizer,
    matrix_axes,
)
from reference.variables import random_variables
from training.tiny import SIZE, SMALL

STEPS = 3
GOLDENS = Path(__file__).parent.parent / "goldens"


@pytest.fixture(scope="module")
def params():
    """Parameters of every kind: those of four parts of a network."""
    params = abstract_variables(BoTNet(config=SMALL), SIZE)["params"]
    return random_variables({part: params[part] for part in ("stem", "c2", "c5", "head")})


@pytest.fixture(scope="module")
def gradients(params):
    return [random_variables(params, seed) for seed in range(1, STEPS + 1)]


def flat(tree):
    return {path: np.asarray(leaf, np.float64) for path, leaf in flatten_dict(tree).items()}


def is_decayed(path):
    """What the paper decays: weights, the relative embeddings among them."""
    return path[-1] in ("kernel", "relative_height", "relative_width")


def updated(options, params, gradients, rate=0.1, **part_rates):
    optimizer = make_optimizer(options, optax.constant_schedule(rate), part_rates)

    @jax.jit
    def all_steps(params, gradients):
        state = optimizer.init(params)
        for gradient in gradients:
            updates, state = optimizer.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
        return params

    return flat(all_steps(params, gradients))


def assert_close(ours, oracle, atol=2e-6):
    assert ours.keys() == oracle.keys()
    for path, value in oracle.items():
        np.testing.assert_allclose(ours[path], value, rtol=2e-5, atol=atol, err_msg=str(path))


def test_decay_mask_takes_weights_and_leaves_norms_and_biases(params):
    mask = flatten_dict(decay_mask(params))
    assert mask == {path: is_decayed(path) for path in flatten_dict(params)}
    kinds = {path[-1] for path in mask}
    assert kinds == {"kernel", "relative_height", "relative_width", "scale", "bias"}
    assert all(isinstance(value, bool) for value in mask.values())


def test_schedule_by_hand():
    options = OptimizerOptions(learning_rate=0.4, warmup_epochs=2.0)
    schedule = learning_rate_schedule(options, steps_per_epoch=5, epochs=6)
    for step in range(31):
        if step < 10:
            expected = 0.4 * step / 10
        else:
            expected = 0.4 * 0.5 * (1 + math.cos(math.pi * (step - 10) / 20))
        assert float(schedule(step)) == pytest.approx(expected, abs=1e-7), step
    assert float(schedule(10)) == pytest.approx(0.4)
    assert float(schedule(30)) == pytest.approx(0, abs=1e-9)


def test_schedule_of_part_epochs_and_without_warmup():
    half = learning_rate_schedule(
        OptimizerOptions(learning_rate=1.0, warmup_epochs=0.5), steps_per_epoch=4, epochs=3
    )
    assert [float(half(step)) for step in (0, 1, 2)] == pytest.approx([0, 0.5, 1])
    none = learning_rate_schedule(
        OptimizerOptions(learning_rate=1.0, warmup_epochs=0.0), steps_per_epoch=1, epochs=1
    )
    assert float(none(0)) == pytest.approx(1.0)


def test_warmup_takes_at_most_half_of_a_short_run():
    options = OptimizerOptions(learning_rate=1.0, warmup_epochs=5.0)
    schedule = learning_rate_schedule(options, steps_per_epoch=4, epochs=1)
    assert [float(schedule(step)) for step in range(5)] == pytest.approx([0, 0.5, 1, 0.5, 0])
    single = learning_rate_schedule(options, steps_per_epoch=1, epochs=1)
    assert float(single(0)) == pytest.approx(1.0)


def test_sgd_with_nesterov_momentum_and_decay(params, gradients):
    options = OptimizerOptions(optimizer="sgd", momentum=0.8, weight_decay=0.05)
    oracle = flat(params)
    velocity = {path: np.zeros_like(value) for path, value in oracle.items()}
    for gradient in map(flat, gradients):
        for path in oracle:
            slope = gradient[path] + 0.05 * oracle[path] * is_decayed(path)
            velocity[path] = 0.8 * velocity[path] + slope
            oracle[path] = oracle[path] - 0.1 * (slope + 0.8 * velocity[path])
    assert_close(updated(options, params, gradients), oracle)


def adamw_by_hand(params, gradients, weight_decay):
    """Parameters after a step of rate 0.1 for each gradient."""
    oracle = dict(params)
    first = {path: np.zeros_like(value) for path, value in oracle.items()}
    second = {path: np.zeros_like(value) for path, value in oracle.items()}
    for count, gradient in enumerate(gradients, start=1):
        for path in oracle:
            first[path] = 0.9 * first[path] + 0.1 * gradient[path]
            second[path] = 0.999 * second[path] + 0.001 * gradient[path] ** 2
            mean = first[path] / (1 - 0.9**count)
            size = np.sqrt(second[path] / (1 - 0.999**count))
            decay = weight_decay * oracle[path] * is_decayed(path)
            oracle[path] = oracle[path] - 0.1 * (mean / (size + 1e-8) + decay)
    return oracle


def test_adamw_with_decoupled_decay(params, gradients):
    options = OptimizerOptions(optimizer="adamw", weight_decay=0.3)
    oracle = adamw_by_hand(flat(params), map(flat, gradients), 0.3)
    # 1 − 0.999^t in float32 is good to 6e-5, which is 3e-6 of an update of 0.1.
    assert_close(updated(options, params, gradients), oracle, atol=6e-6)


def as_matrix(path, value):
    """Inputs × outputs for what Muon updates; None for what it leaves to AdamW."""
    if path[0] in ("stem", "head") or path[-1] != "kernel":
        return None
    heads = path[-2] in ("query", "key", "value")
    matrix = value.reshape(len(value), -1) if heads else value.reshape(-1, value.shape[-1])
    return None if 1 in matrix.shape else matrix


def nearly_orthogonal(matrix):
    """Five steps of Jordan's quintic, which take singular values of up to 1 to about 1."""
    matrix = matrix / np.linalg.norm(matrix)
    for _ in range(5):
        square = matrix @ matrix.T
        matrix = 3.4445 * matrix + (-4.7750 * square + 2.0315 * square @ square) @ matrix
    return matrix


@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_makes_the_momentum_of_matrices_orthogonal(params, gradients, nesterov):
    options = OptimizerOptions(optimizer="muon", momentum=0.8, nesterov=nesterov, weight_decay=0.3)
    start, slopes = flat(params), [flat(gradient) for gradient in gradients]
    oracle = adamw_by_hand(start, slopes, 0.3)
    matrices = [path for path in start if as_matrix(path, start[path]) is not None]
    assert 5 < len(matrices) < len(oracle)
    for path in matrices:
        value, mean = start[path], np.zeros_like(start[path])
        for count, slope in enumerate((slope[path] for slope in slopes), start=1):
            mean = 0.8 * mean + 0.2 * slope
            ahead = 0.8 * mean / (1 - 0.8 ** (count + 1)) + 0.2 * slope / (1 - 0.8**count)
            update = nearly_orthogonal(as_matrix(path, ahead if nesterov else mean))
            update *= 0.2 * np.sqrt(max(update.shape))
            value = value - 0.1 * (update.reshape(value.shape) + 0.3 * value)
        oracle[path] = value
    assert_close(updated(options, params, gradients), oracle, atol=2e-5)


def shapes_of(variant):
    """A variant's parameters by path, as its golden has them."""
    lines = (GOLDENS / f"{variant}.txt").read_text().splitlines()
    shapes = {}
    for path, shape, *_ in map(str.split, lines):
        sizes = tuple(int(size) for size in shape.split("x"))
        shapes[tuple(path.split("/"))] = jax.ShapeDtypeStruct(sizes, jnp.float32)
    return shapes


@pytest.mark.parametrize("variant", sorted(file.stem for file in GOLDENS.glob("*.txt")))
def test_muon_s_matrices_are_the_kernels_between_stem_and_head(variant):
    shapes = shapes_of(variant)
    axes = flatten_dict(matrix_axes(unflatten_dict(shapes)))
    for path, leaf in shapes.items():
        expected = as_matrix(path, np.zeros(leaf.shape))
        if expected is None:
            assert axes[path] is None, path
            continue
        inputs, outputs = ([leaf.shape[axis] for axis in part] for part in axes[path])
        assert (*inputs, *outputs) == leaf.shape, path
        assert (math.prod(inputs), math.prod(outputs)) == expected.shape, path


@pytest.mark.parametrize("clip", [0.5, 1e9])
def test_the_whole_gradient_is_clipped_before_decay(params, gradients, clip):
    options = OptimizerOptions(optimizer="sgd", momentum=0.0, weight_decay=0.05, clip_norm=clip)
    gradient = flat(gradients[0])
    norm = math.sqrt(sum(float(np.sum(value**2)) for value in gradient.values()))
    assert norm > 0.5
    share = min(1.0, clip / norm)
    oracle = {
        path: value - 0.1 * (share * gradient[path] + 0.05 * value * is_decayed(path))
        for path, value in flat(params).items()
    }
    assert_close(updated(options, params, gradients[:1]), oracle)


def test_the_learning_rate_is_that_of_the_step():
    schedule = learning_rate_schedule(
        OptimizerOptions(learning_rate=1.0, warmup_epochs=1.0), steps_per_epoch=2, epochs=2
    )
    options = OptimizerOptions(optimizer="sgd", momentum=0.0, weight_decay=0.0)
    optimizer = make_optimizer(options, schedule)
    params = {"kernel": jnp.zeros(())}
    state = optimizer.init(params)
    for expected in (0.0, 0.5, 1.0, 0.5):
        updates, state = optimizer.update({"kernel": jnp.ones(())}, state, params)
        assert float(updates["kernel"]) == pytest.approx(-expected, abs=1e-7)


@pytest.mark.parametrize("name", get_args(OptimizerName))
def test_a_part_learns_at_its_own_rate(params, gradients, name):
    options = OptimizerOptions(optimizer=name, weight_decay=0.1)
    whole = updated(options, params, gradients[:1])
    parts = updated(options, params, gradients[:1], stem=0.0, c2=0.25)
    before = flat(params)
    for path, value in parts.items():
        share = {"stem": 0.0, "c2": 0.25}.get(path[0], 1.0)
        expected = before[path] + share * (whole[path] - before[path])
        np.testing.assert_allclose(value, expected, rtol=0, atol=1e-6, err_msg=str(path))
        if share == 0:
            np.testing.assert_array_equal(value, before[path])

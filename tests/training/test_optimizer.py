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
from bottleneck_transformer_flax.training.config import DecayShape, OptimizerName, OptimizerOptions
from bottleneck_transformer_flax.training.optimizer import (
    learning_rate_schedule,
    make_optimizer,
    matrix_axes,
)
from reference.variables import random_variables
from training.tiny import SIZE, SMALL

STEPS = 3
GOLDENS = Path(__file__).parent.parent / "goldens"


@pytest.fixture(autouse=True)
def promotion_of_steps():
    """Optax computes with floats and integer steps."""
    with jax.numpy_dtype_promotion("standard"):
        yield


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


@pytest.mark.parametrize(
    ("warmup_epochs", "steps_per_epoch", "epochs", "warmup_steps"),
    [(2.0, 5, 6, 10), (0.5, 4, 3, 2), (0.0, 1, 1, 0), (5.0, 4, 1, 2), (5.0, 1, 1, 0)],
)
@pytest.mark.parametrize("decay", get_args(DecayShape))
def test_the_learning_rate_warms_up_and_follows_a_cosine_or_a_line(
    decay, warmup_epochs, steps_per_epoch, epochs, warmup_steps
):
    """Warm-up takes at most half of a short run; each step takes its own rate."""
    options = OptimizerOptions(
        learning_rate=0.4,
        learning_rate_decay=decay,
        warmup_epochs=warmup_epochs,
        momentum=0.0,
        weight_decay=0.0,
    )
    schedule = learning_rate_schedule(
        options, steps_per_epoch=steps_per_epoch, total_steps=steps_per_epoch * epochs
    )
    optimizer = make_optimizer(options, schedule)
    params = {"kernel": jnp.zeros(())}
    state, last = optimizer.init(params), steps_per_epoch * epochs
    for step in range(last + 1):
        if step < warmup_steps:
            expected = 0.4 * step / warmup_steps
        else:
            part = (step - warmup_steps) / (last - warmup_steps)
            cosine = 0.4 * 0.5 * (1 + math.cos(math.pi * part))
            expected = cosine if decay == "cosine" else 0.4 * (1 - part)
        assert float(schedule(step)) == pytest.approx(expected, abs=1e-7), step
        updates, state = optimizer.update({"kernel": jnp.ones(())}, state, params)
        assert float(updates["kernel"]) == pytest.approx(-expected, abs=1e-7)


@pytest.mark.parametrize("clip", [None, 0.5, 1e9])
def test_sgd_with_nesterov_momentum_and_decay_clips_before_both(params, gradients, clip):
    options = OptimizerOptions(optimizer="sgd", momentum=0.8, weight_decay=0.05, clip_norm=clip)
    oracle = flat(params)
    velocity = {path: np.zeros_like(value) for path, value in oracle.items()}
    for gradient in map(flat, gradients):
        norm = math.sqrt(sum(float(np.sum(value**2)) for value in gradient.values()))
        assert norm > 0.5
        clipped = min(1.0, (clip or norm) / norm)
        for path in oracle:
            slope = clipped * gradient[path] + 0.05 * oracle[path] * is_decayed(path)
            velocity[path] = 0.8 * velocity[path] + slope
            oracle[path] = oracle[path] - 0.1 * (slope + 0.8 * velocity[path])
    assert_close(updated(options, params, gradients), oracle)
    kinds = {path[-1] for path in oracle}
    assert kinds == {"kernel", "relative_height", "relative_width", "scale", "bias"}


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


@pytest.mark.parametrize("nesterov", [True, pytest.param(False, marks=pytest.mark.slow)])
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


@pytest.mark.parametrize("golden", sorted(GOLDENS.glob("*.txt")), ids=lambda file: file.stem)
def test_muon_s_matrices_are_the_kernels_between_stem_and_head(golden):
    params = {}
    for path, shape, *_ in map(str.split, golden.read_text().splitlines()):
        params[tuple(path.split("/"))] = np.zeros([int(size) for size in shape.split("x")])
    axes = flatten_dict(matrix_axes(unflatten_dict(params)))
    for path, leaf in params.items():
        expected = as_matrix(path, leaf)
        if expected is None:
            assert axes[path] is None, path
            continue
        inputs, outputs = ([leaf.shape[axis] for axis in part] for part in axes[path])
        assert (*inputs, *outputs) == leaf.shape, path
        assert (math.prod(inputs), math.prod(outputs)) == expected.shape, path


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

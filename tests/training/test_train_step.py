"""The step on a model that NumPy can differentiate: loss, masks, parts, averages, purity."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bottleneck_transformer_flax.augmentation.config import Augmentation
from bottleneck_transformer_flax.training.class_balance import class_weights
from bottleneck_transformer_flax.training.config import OptimizerOptions
from bottleneck_transformer_flax.training.train_step import DeviceBatch
from training.tiny import (
    CROPPED,
    SMALL,
    LinearModel,
    assert_same_bits,
    batch_of,
    stepper,
    tree_differs,
)

RATE = 0.1
SGD = OptimizerOptions(optimizer="sgd", momentum=0.0, weight_decay=0.0)


def linear(options=SGD, *, dropout=0.0, **rest):
    return stepper(LinearModel(config=SMALL.replace(dropout_rate=dropout)), options, RATE, **rest)


def copied(tree):
    return jax.tree.map(lambda leaf: np.array(leaf), tree)


def oracle(variables, batch, smoothing=0.0, weights=(1.0, 1.0, 1.0)):
    """Loss sum, number correct, gradient of the mean loss, and the new running mean, in NumPy."""
    params = {name: np.asarray(value, np.float64) for name, value in variables["params"].items()}
    mean, std = np.asarray(CROPPED.mean), np.asarray(CROPPED.std)
    features = ((batch.image / 255 - mean) / std).mean(axis=(1, 2))
    scaled = features * params["scale"]
    logits = scaled @ params["kernel"] + params["bias"]
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    targets = np.eye(3)[batch.label] * (1 - smoothing) + smoothing / 3
    weight = np.asarray(weights)[batch.label]
    losses = -weight * (targets * np.log(probabilities)).sum(axis=1)
    slope = (probabilities - targets) * (weight * batch.valid)[:, None] / max(batch.valid.sum(), 1)
    gradient = {
        "bias": slope.sum(axis=0),
        "kernel": scaled.T @ slope,
        "scale": ((slope @ params["kernel"].T) * features).sum(axis=0),
    }
    correct = int(((logits.argmax(axis=1) == batch.label) & batch.valid).sum())
    running = 0.9 * np.asarray(variables["batch_stats"]["mean"]) + 0.1 * features.mean(axis=0)
    return (losses * batch.valid).sum(), correct, gradient, running


WEIGHTS = np.array([0.25, 1.5, 4.0], np.float32)


@pytest.mark.parametrize(
    ("smoothing", "weights"), [(0.0, None), (0.1, None), (0.6, None), (0.1, WEIGHTS)]
)
@pytest.mark.parametrize("valid", [np.ones(7, bool), np.array([1, 1, 0, 1, 0, 1, 1], bool)])
def test_a_step_does_what_numpy_does(smoothing, weights, valid):
    step, start = linear(label_smoothing=smoothing, class_weights=weights)
    batch, before = batch_of(7, valid), copied(start().variables)
    ones = (1.0, 1.0, 1.0)
    loss, correct, gradient, running = oracle(
        before, batch, smoothing, ones if weights is None else weights
    )
    state, metrics = step(start(), batch)
    norm = np.sqrt(sum((value**2).sum() for value in gradient.values()))
    expected = (loss, correct, valid.sum(), norm, RATE * norm)
    np.testing.assert_allclose(metrics, expected, rtol=1e-5)
    for name, value in gradient.items():
        expected = before["params"][name] - RATE * value
        np.testing.assert_allclose(state.variables["params"][name], expected, rtol=1e-5, atol=1e-6)
    statistics = state.variables["batch_stats"]["mean"]
    np.testing.assert_allclose(statistics, running, rtol=1e-5, atol=1e-6)
    assert int(state.step) == 1
    assert state.inference_variables is state.variables


@pytest.mark.parametrize("alphas", [{"mixup_alpha": 1.0}, {"cutmix_alpha": 1.0}])
def test_a_mixture_has_the_weights_of_its_images_in_the_proportion_of_their_targets(alphas):
    """Of the same pixels under two labels, every mixture together has the loss of no mixture."""
    one = batch_of(1)
    labels = np.array([0, 2, 0, 2], np.int32)
    batch = DeviceBatch(one.image.repeat(4, 0), labels, np.ones(4, bool))
    losses = []
    for augmentation in (Augmentation(flip=False), Augmentation(flip=False, **alphas)):
        step, start = linear(label_smoothing=0.1, class_weights=WEIGHTS, augmentation=augmentation)
        losses.append(float(step(start(), batch)[1].loss_sum))
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    expected = oracle(copied(start().variables), batch, 0.1, WEIGHTS)[0]
    assert losses[0] == pytest.approx(expected, rel=1e-5)


def test_all_classes_weigh_the_same_and_the_mean_image_weighs_1():
    labels = np.repeat(np.arange(3), (1, 20, 300))
    weights = class_weights(labels, 3)[labels]
    assert weights.mean() == pytest.approx(1)
    together = np.bincount(labels, weights)
    np.testing.assert_allclose(together, 321 / 3, rtol=1e-6)


def test_masked_images_contribute_nothing():
    step, start = linear()
    valid = np.array([1, 0, 1, 1, 0, 0, 1], bool)
    batch = batch_of(7, valid)
    other_labels = np.where(valid, batch.label, (batch.label + 1) % 3).astype(np.int32)
    other_images = np.where(valid[:, None, None, None], batch.image, 255 - batch.image)
    first, first_metrics = step(start(), batch)
    second, second_metrics = step(start(), DeviceBatch(other_images, other_labels, valid))
    assert_same_bits(first_metrics, second_metrics)
    assert_same_bits(first.variables["params"], second.variables["params"])
    state, metrics = step(start(), batch_of(7, np.zeros(7, bool)))
    assert_same_bits(state.variables["params"], start().variables["params"])
    assert not any(map(float, metrics))


@pytest.mark.parametrize("parts", [2, 3, 6])
def test_a_batch_in_parts_is_the_whole_batch_but_each_part_moves_the_statistics(parts):
    # Unequal numbers of valid images in the parts: each part's mean would be another one.
    batch = batch_of(6, np.array([1, 1, 1, 0, 1, 0], bool))
    whole, start = linear(label_smoothing=0.1)
    accumulated, _ = linear(label_smoothing=0.1, accumulation_steps=parts)
    expected, expected_metrics = whole(start(), batch)
    state, metrics = accumulated(start(), batch)
    for name, value in expected.variables["params"].items():
        np.testing.assert_allclose(state.variables["params"][name], value, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(metrics, expected_metrics, rtol=1e-6)
    assert int(state.step) == 1
    running = copied(start().variables)
    for first in range(parts):
        part = DeviceBatch(*(value[first::parts] for value in batch))
        running["batch_stats"] = {"mean": oracle(running, part)[3]}
    statistics = state.variables["batch_stats"]["mean"]
    np.testing.assert_allclose(statistics, running["batch_stats"]["mean"], rtol=1e-4)


def test_parts_draw_their_own_dropout():
    # The same image twice: were both parts dropped alike, the sum would be twice that of one.
    step, start = linear(dropout=0.5, accumulation_steps=6)
    one = batch_of(1)
    sums = []
    for number in range(1, 7):
        valid = np.arange(6) < number
        batch = DeviceBatch(one.image.repeat(6, 0), one.label.repeat(6), valid)
        sums.append(float(step(start(), batch)[1].loss_sum))
    alone = np.diff([0.0, *sums])
    assert len(set(alone.round(4))) > 1


def test_the_average_follows_with_a_decay_that_grows_and_keeps_what_is_frozen():
    decay = 0.15
    step, start = linear(ema_decay=decay, rates={"kernel": 0.0})
    state = start()
    expected = first = copied(state.variables)
    for number in range(4):
        state, _ = step(state, batch_of(5, seed=number))
        keep = min(decay, (1 + number) / (10 + number))
        expected = jax.tree.map(
            lambda old, new, keep=keep: keep * old + (1 - keep) * np.asarray(new),
            expected,
            copied(state.variables),
        )
        jax.tree.map(
            partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), state.average, expected
        )
    # Both regimes were met.
    assert 1 / 10 < decay < 4 / 13
    assert state.inference_variables is state.average
    for variables in (state.variables, state.average):
        assert_same_bits(variables["params"]["kernel"], first["params"]["kernel"])
        assert tree_differs(variables["params"]["bias"], first["params"]["bias"])
        assert tree_differs(variables["batch_stats"], first["batch_stats"])


def test_the_state_is_used_up():
    """JAX refuses to donate a buffer twice: the first average has buffers of its own."""
    step, start = linear(ema_decay=0.9)
    state = start()
    assert_same_bits(state.average, state.variables)
    step(state, batch_of(4))
    for leaf in jax.tree.leaves((state.variables, state.average)):
        assert leaf.is_deleted()


def test_a_step_is_pure_and_its_randomness_is_of_seed_and_step():
    step, start = linear(dropout=0.5)
    again, _ = linear(dropout=0.5)
    other, _ = linear(dropout=0.5, seed=1)
    batch = batch_of(6)
    results = [one(start(), batch) for one in (step, step, again)]
    assert_same_bits(results[0], results[1])
    assert_same_bits(results[0], results[2])
    assert tree_differs(other(start(), batch)[0].variables, results[0][0].variables)
    later = start().replace(step=jnp.asarray(5, jnp.int32))
    assert tree_differs(step(later, batch)[0].variables, results[0][0].variables)

"""The GPU's script finds attention that is wrong, and times the rest when one breaks."""

from dataclasses import replace

import jax
import pytest

from benchmarks import gpu_attention
from benchmarks.gpu_settings import NOT_MEASURED, SMALL
from bottleneck_transformer_flax.layers.attention_backends.choice import BACKENDS

ARGUMENTS = ("output", "queries", "keys", "values", "height table", "width table")


def test_judgement_of_differences():
    small, large = 1e-3, 1e-2
    own = [small, large]
    assert gpu_attention.judge("reference", "bfloat16", [1.0, 1.0], own) == ["", ""]
    assert gpu_attention.judge("fused", "float32", [1e-6, 9e-6], own) == ["", ""]
    assert all(gpu_attention.judge("fused", "float32", [2e-5, float("nan")], own))
    # Four times the reference's own, but at least four roundings of the result.
    assert gpu_attention.judge("fused", "bfloat16", [0.015, 0.039], own) == ["", ""]
    assert all(gpu_attention.judge("fused", "bfloat16", [0.016, 0.041], own))


@pytest.mark.parametrize("wrong", [None, "output", "values", "alone"])
def test_a_wrong_kernel_is_found(monkeypatch, wrong):
    @jax.custom_vjp
    def right_when_differentiated(output):
        return 1.1 * output

    right_when_differentiated.defvjp(lambda output: (output, None), lambda _, given: (given,))

    def kernel(query, key, value, height_table, width_table):
        output = BACKENDS["reference"](query, key, value, height_table, width_table)
        if wrong == "values":
            # Right by its output alone.
            return jax.lax.stop_gradient(output - 2 * value) + 2 * value
        if wrong == "alone":
            return right_when_differentiated(output)
        return output * (1.1 if wrong == "output" else 1)

    monkeypatch.setitem(BACKENDS, "fused", kernel)
    rows = gpu_attention.check(replace(SMALL, checked_grids=((2, 3),)))
    assert len(rows) == 3 * (len(ARGUMENTS) + 1)
    failed = {
        (row.implementation, row.dtype, row.quantity)
        for row in rows
        if row.status.startswith("failed")
    }
    if wrong is None:
        assert not failed
    else:
        expected = {
            "output": {"output", "output without gradients"},
            "values": {"gradient of values"},
            "alone": {"output without gradients"},
        }[wrong]
        dtypes = ("float32", "bfloat16")
        assert {("fused", dtype, each) for dtype in dtypes for each in expected} <= failed
        assert wrong != "alone" or len(failed) == 2
    assert all(name == "fused" for name, _, _ in failed)


def test_a_kernel_that_breaks_keeps_no_other_from_being_timed(monkeypatch):
    def broken(*arrays):
        raise NotImplementedError("no such head")

    monkeypatch.setitem(BACKENDS, "fused", broken)
    settings = replace(SMALL, timed_grids=(((2, 2), 1),))
    rows = gpu_attention.measure_speed(settings)
    forward = [row for row in rows if row.quantity == "forward"]
    assert {row.implementation: row.status for row in forward} == {
        "reference": NOT_MEASURED,
        "blockwise": NOT_MEASURED,
        "fused": "failed: NotImplementedError: no such head",
    }
    (checked,) = gpu_attention.check(replace(SMALL, checked_grids=((2, 2),)))
    assert checked.status == "failed: NotImplementedError: no such head"

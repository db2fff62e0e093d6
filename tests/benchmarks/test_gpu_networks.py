"""The GPU's script compares whole networks, then times them in turns, as fast as each can be."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from benchmarks import gpu_measure, gpu_memory, gpu_networks, gpu_peers
from benchmarks.gpu_measure import Row, Work, compile_in, program_bytes, time_in_turns
from benchmarks.gpu_settings import NOT_MEASURED, SMALL
from bottleneck_transformer_flax.errors import ConfigError

BENCHMARKS = Path(gpu_networks.__file__).parent

# Not in the tests' own process, whose checks of types stop tracing a state's shapes.
NETWORKS_IN_BFLOAT16 = """
import dataclasses, json
import jax
from benchmarks import gpu_networks, gpu_peers
from benchmarks.gpu_settings import SMALL

log = []

def logged(module, name, said):
    function = getattr(module, name)
    def call(*arguments, **named):
        log.append(said)
        return function(*arguments, **named)
    setattr(module, name, call)

def compiled(event, duration, **_):
    if event == "/jax/core/compile/backend_compile_duration" and log[-1:] != ["ours"]:
        log.append("ours")

for name in ("inference", "training", "gradients"):
    logged(gpu_peers, name, "theirs")
logged(gpu_networks, "time_in_turns", "timed")
jax.monitoring.register_event_duration_secs_listener(compiled)
half = {name: getattr(SMALL, name).replace(dtype="bfloat16") for name in ("t3", "t7")}
settings = dataclasses.replace(SMALL, **half)
rows = [
    dataclasses.asdict(row)
    for measure in ("measure_t3_inference", "measure_t3_training", "measure_headline")
    for row in getattr(gpu_networks, measure)(settings)
]
print(json.dumps([log, rows]))
"""


def work(name, log):
    return Work(name, lambda: log.append(name), lambda _: log.append("wait"), lambda: 7, 1.5)


def test_implementations_take_turns_of_several_calls():
    log = []
    row = Row(section="s", case="c", quantity="q", batch_size=4, status=NOT_MEASURED)
    rows = time_in_turns(
        [work("ours", log), work("peer", log)], replace(SMALL, rounds=3), row, {"ours": 0.25}
    )
    turn = ["ours", "ours", "wait", "peer", "peer", "wait"]
    assert log[-len(3 * turn) :] == 3 * turn
    assert [(each.implementation, each.largest_difference) for each in rows] == [
        ("ours", 0.25),
        ("peer", None),
    ]
    for each in rows:
        assert (each.rounds, each.calls, each.memory_bytes, each.compile_seconds) == (3, 6, 7, 1.5)
        assert each.per_second == pytest.approx(4 / each.seconds)
        assert each.relative_time == pytest.approx(each.seconds / rows[0].seconds)


def test_seconds_are_those_of_one_call(monkeypatch):
    now = [0.0]

    def sleeping(name, seconds):
        def start():
            now[0] += seconds

        return Work(name, start, lambda _: None, lambda: None, 0.0)

    monkeypatch.setattr(gpu_measure.time, "perf_counter", lambda: now[0])
    row = Row(section="s", case="c", quantity="q", batch_size=1)
    works = [sleeping("ours", 0.1), sleeping("peer", 0.25)]
    ours, peer = time_in_turns(works, replace(SMALL, turn_seconds=1.0), row)
    assert (ours.seconds, peer.seconds) == pytest.approx((0.1, 0.25))
    assert peer.relative_time == pytest.approx(2.5)
    assert (ours.calls, peer.calls) == (2 * 10, 2 * 4)


def test_a_program_needs_its_arguments_and_results():
    with ThreadPoolExecutor(1) as pool:
        shape = jax.ShapeDtypeStruct((3, 5), jnp.float32)
        program = compile_in(pool, jax.jit(lambda x: (x + 1, x * 2)), shape).result()
    assert program_bytes(program.call) >= 3 * (3 * 5 * 4)


def test_a_torch_without_a_gpu_is_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="finds no GPU"):
        gpu_peers.torch_device(needs_gpu=True)


@pytest.mark.parametrize("workload", ["inference", "training"])
def test_networks_that_differ_in_float32_fail_and_are_timed(monkeypatch, workload):
    """What they compute in bfloat16 is not judged."""
    settings = replace(SMALL, t3=SMALL.t3.replace(dtype="bfloat16"))
    monkeypatch.setattr(gpu_networks, "free_memory", lambda: None)

    def statuses(in_float32, in_bfloat16=(1.0, -1.9)):
        def prepare(workload, batch_size, settings, device):
            came = in_float32 if settings.dtype == "float32" else in_bfloat16
            ours = gpu_peers.Prepared(work("ours", []), np.array(came))
            return ours, gpu_peers.Prepared(work("timm", []), np.array([1.0, -2.0]))

        monkeypatch.setattr(gpu_networks, "_prepare", prepare)
        rows = gpu_networks._measure_t3(workload, settings)
        assert all(row.seconds is not None and row.dtype == "bfloat16" for row in rows)
        return {row.status for row in rows}

    assert statuses((1.0, -2.000001)) == {NOT_MEASURED}
    for wrong in ((1.0, -2.01), (np.nan, -2.0)):
        (status,) = statuses(wrong)
        assert status.startswith("failed: in float32 the outputs differ by")
    (status,) = statuses((1.0, -2.0), (np.nan, -2.0))
    assert status == "failed: the outputs are not all finite"


def test_products_are_exact_where_networks_are_compared():
    def precision():
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    before = precision()
    with gpu_peers.exact_products():
        assert precision() == ("highest", False)
        assert not torch.backends.cudnn.benchmark
    assert precision() == before


@pytest.mark.parametrize("fails", [None, "cannot freeze", "CUDA out of memory"])
def test_weights_are_frozen_where_that_works(monkeypatch, capsys, fails):
    def compiled(network, backend):
        def call(images):
            frozen = torch._inductor.config.freezing
            if frozen and fails:
                raise RuntimeError(fails)
            assert not torch.is_grad_enabled() and frozen == (fails is None)
            assert images.is_contiguous(memory_format=torch.channels_last)
            return network(images)

        return call

    monkeypatch.setattr(torch, "compile", compiled)
    network, images = torch.nn.Conv2d(3, 4, 1).eval(), np.ones((2, 5, 7, 3), np.float32)
    arguments = (network, images, SMALL, torch.device("cpu"))
    if fails == "CUDA out of memory":
        with pytest.raises(RuntimeError, match="out of memory"):
            gpu_peers.inference(*arguments)
        return
    prepared = gpu_peers.inference(*arguments)
    assert prepared.work.name == ("timm, not frozen" if fails else "timm")
    assert ("not frozen, which failed: RuntimeError: cannot freeze" in capsys.readouterr().out) == (
        fails is not None
    )
    assert not torch._inductor.config.freezing
    assert prepared.outputs.shape == (2, 4, 5, 7)


@pytest.mark.slow
def test_networks_in_bfloat16():
    """The path of the full sizes; and ours is compiled before timm's begins, and not later."""
    folders = map(str, (BENCHMARKS.parent, BENCHMARKS.parent / "src"))
    done = subprocess.run(
        [sys.executable, "-c", NETWORKS_IN_BFLOAT16],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(folders)},
    )
    assert done.returncode == 0, done.stderr
    log, rows = json.loads(done.stdout)
    one = ["ours", "theirs"]
    assert log == [*one, *one, "timed", *one, *one, "timed", *one, "timed"]
    assert [(row["section"], row["implementation"]) for row in rows] == [
        (section, name)
        for section in ("t3-inference", "t3-training", "t7-efficientnet")
        for name in ("ours", "timm")
    ]
    assert {(row["dtype"], row["status"]) for row in rows} == {("bfloat16", NOT_MEASURED)}
    for row in rows[:4]:
        assert row["float32_difference"] < 1e-4
    for row in (rows[0], rows[2]):
        assert row["float32_difference"] < row["largest_difference"] < 0.1


def test_half_the_batch_where_it_does_not_fit(monkeypatch, capsys):
    tried = []

    def measure(batch_size, settings):
        tried.append(batch_size)
        if batch_size > 3:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return [batch_size]

    monkeypatch.setattr(gpu_memory, "free_memory", lambda: None)
    assert gpu_memory.with_memory(measure, 12, SMALL) == [3]
    assert tried == [12, 6, 3]
    assert "a batch of 12 does not fit into memory; trying 6" in capsys.readouterr().out


def test_only_memory_is_worth_a_smaller_batch():
    def measure(batch_size, settings):
        raise RuntimeError(f"wrong at {batch_size}")

    with pytest.raises(RuntimeError, match="wrong at 8"):
        gpu_memory.with_memory(measure, 8, SMALL)

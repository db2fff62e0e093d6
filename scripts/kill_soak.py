"""Kill a training run at random moments, resume it each time, and compare it with one that was left
alone: the parameters must be the same to the last bit.

    python scripts/kill_soak.py --kills 20 --seed 0
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bottleneck_transformer_flax.cli import main as botnet
from bottleneck_transformer_flax.models.config import BoTNetConfig
from bottleneck_transformer_flax.models.variants import VARIANTS, Variant

CONFIG = BoTNetConfig(
    stage_sizes=(1, 1, 1, 1),
    num_classes=10,
    initial_filters=8,
    num_heads=2,
    head_dim=16,
    stem="3x3",
    stem_pool=False,
)
VARIANTS["soak"] = Variant(
    name="soak", config=CONFIG, size=28, source="this script", parameters=0, multiply_adds=0
)
TIMINGS = ("seconds", "images_per_second", "input_wait", "mfu")


def start(*arguments: object) -> subprocess.Popen[str]:
    """``botnet train`` in a process of its own, which knows the small variant."""
    command = [sys.executable, __file__, "--botnet", "train", *map(str, arguments)]
    return subprocess.Popen(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a process that must succeed, and return its output."""
    said, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"it ended with {process.returncode}:\n{said}")
    return said


def kill_soon(process: subprocess.Popen[str], moment: float) -> str | None:
    """Kill a process after some seconds, and return its output; None if it has ended before."""
    try:
        said, _ = process.communicate(timeout=moment)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()[0]
    if process.returncode:
        raise SystemExit(f"it ended with {process.returncode}:\n{said}")
    return None


def results(run: Path) -> tuple[bytes, list[dict[str, object]]]:
    """Read the parameters' file, and the rows of the epochs without their timings."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    untimed = [{key: row[key] for key in row if key not in TIMINGS} for row in rows]
    return (run / "pretrained" / "model.safetensors").read_bytes(), untimed


def soak(kills: int, epochs: int, seed: int, folder: Path) -> None:
    """Train one run undisturbed and others with kills; SystemExit where the results differ."""
    small = ("--variant", "soak", "--image-size", 16, 16)
    options = (*small, "--epochs", epochs, "--save-every-epochs", 1)
    began = time.perf_counter()
    finish(start(*options, "--run-directory", folder / "alone"))
    seconds = time.perf_counter() - began
    expected = results(folder / "alone")
    print(
        f"left alone: {epochs} epochs in {seconds:.0f} s, {len(expected[0]):,} bytes of parameters"
    )
    moments = random.Random(seed)
    killed, run_number = 0, 0
    while killed < kills:
        run_number += 1
        run = folder / f"killed-{run_number}"
        while True:
            resumes = any((run / "checkpoints").glob("[0-9]*"))
            if not resumes:
                shutil.rmtree(run, ignore_errors=True)
            process = start(*(("--resume",) if resumes else options), "--run-directory", run)
            if killed == kills:
                finish(process)
                break
            moment = moments.uniform(0.2, 0.4 * seconds)
            said = kill_soon(process, moment)
            if said is None:
                break
            killed += 1
            resumed = [line for line in said.splitlines() if line.startswith("resume")]
            print(f"kill {killed:2} after {moment:5.1f} s; {resumed or ['from the start']}")
        if results(run) != expected:
            raise SystemExit(f"{run} is not what {folder / 'alone'} is")
        print(f"run {run_number}: the same parameters to the last bit, the same epochs")


def main() -> None:
    """Run ``botnet`` with the small variant if asked to, else the soak."""
    if sys.argv[1:2] == ["--botnet"]:
        raise SystemExit(botnet(sys.argv[2:]))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        soak(options.kills, options.epochs, options.seed, Path(folder))


if __name__ == "__main__":
    main()

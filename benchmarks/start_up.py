"""Time until the package is imported, a command explains itself, and gives its first result.

    python -m benchmarks start-up

Each is a process of its own, in turns; the medians are printed.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from benchmarks.conditions import conditions
from bottleneck_transformer_flax import BoTNet, Preprocessing, save_pretrained
from bottleneck_transformer_flax.errors import BoTNetError
from bottleneck_transformer_flax.models.flops import abstract_variables
from bottleneck_transformer_flax.models.variants import get_variant
from reference.variables import random_variables

FRAMEWORKS = "import jax, flax"
PACKAGE = f"{FRAMEWORKS}, bottleneck_transformer_flax"
NAMES = f"{PACKAGE}; from bottleneck_transformer_flax import BoTNet, get_config, load_pretrained"
IMPORTS = (FRAMEWORKS, PACKAGE, NAMES)
BOTNET = (sys.executable, "-m", "bottleneck_transformer_flax")


def seconds_to_first_line(command: Sequence[str], environment: Mapping[str, str]) -> float:
    """How long a process takes to print its first line, or else to end.

    Raises:
        subprocess.CalledProcessError: when it fails.
    """
    start = time.perf_counter()
    reading, writing = os.pipe()
    process = subprocess.Popen(command, stdout=writing, env=dict(environment))
    os.close(writing)
    with os.fdopen(reading) as output:
        output.readline()
        seconds = time.perf_counter() - start
        output.read()
    if process.wait():
        raise subprocess.CalledProcessError(process.returncode, command)
    return seconds


def import_and_help_seconds(rounds: int) -> dict[str, float]:
    """The median for each import and each help text, by what is typed."""
    commands = {f'python -c "{code}"': (sys.executable, "-c", code) for code in IMPORTS}
    commands |= {
        " ".join(("botnet", *words)): (*BOTNET, *words)
        for words in (("--help",), ("predict", "--help"))
    }
    seconds: dict[str, list[float]] = {typed: [] for typed in commands}
    for _ in range(rounds):
        for typed, command in commands.items():
            seconds[typed].append(seconds_to_first_line(command, os.environ))
    return {typed: median(times) for typed, times in seconds.items()}


def predict_seconds(variant: str, rounds: int, folder: Path) -> tuple[float, float]:
    """The medians of ``botnet predict``'s first result: with an empty cache, and once more."""
    write_model(variant, folder / "model")
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "image.png")
    words = ("predict", str(folder / "image.png"), "--checkpoint", str(folder / "model"), "--json")
    inherited = {name: value for name, value in os.environ.items() if "COMPILATION" not in name}
    first, second = [], []
    for number in range(rounds):
        environment = inherited | {"XDG_CACHE_HOME": str(folder / f"cache-{number}")}
        first.append(seconds_to_first_line((*BOTNET, *words), environment))
        second.append(seconds_to_first_line((*BOTNET, *words), environment))
    return median(first), median(second)


def write_model(variant_name: str, directory: Path) -> None:
    """A pretrained directory of a variant with random weights."""
    variant = get_variant(variant_name)
    model = BoTNet(config=variant.config)
    variables = random_variables(abstract_variables(model, variant.image_size))
    classes = tuple(f"class {index}" for index in range(variant.config.num_classes))
    save_pretrained(directory, model, variables, Preprocessing(size=variant.image_size), classes)


def run(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure the time to start.")
    parser.add_argument("--variant", default="botnet_t3", help="the model that predicts")
    parser.add_argument("--rounds", type=int, default=7, help="how often each is measured")
    parsed = parser.parse_args(arguments)
    if parsed.rounds < 1:
        parser.error(f"--rounds is {parsed.rounds}; expected at least 1")
    try:
        with tempfile.TemporaryDirectory() as folder:
            medians = import_and_help_seconds(parsed.rounds)
            first, second = predict_seconds(parsed.variant, parsed.rounds, Path(folder))
    except (BoTNetError, subprocess.CalledProcessError) as error:
        print(f"start_up.py: error: {error}", file=sys.stderr)
        return 1
    frameworks, package, names = (medians[f'python -c "{code}"'] for code in IMPORTS)
    for typed, seconds in medians.items():
        print(f"{seconds:6.3f} s  {typed}")
    print(f"{package - frameworks:6.3f} s  added by importing the package")
    print(f"{names - frameworks:6.3f} s  added by importing its names")
    print(f"{first:6.3f} s  botnet predict with {parsed.variant}, first result, empty cache")
    print(f"{second:6.3f} s  the same once more: {first / second:.2f} × faster")
    print("measured on " + ", ".join(f"{key} {value}" for key, value in conditions().items()))
    return 0

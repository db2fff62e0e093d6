"""Time until the package is imported, a command explains itself, and gives its first result."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.options import Results, add_rounds, make_parser, use_cpu
from benchmarks.results import Row, progress
from benchmarks.timing import Pace, Turns, take_turns, timed_row
from bottleneck_transformer_flax import BoTNet, Preprocessing, save_pretrained
from bottleneck_transformer_flax.models.flops import abstract_variables
from bottleneck_transformer_flax.models.variants import get_variant
from reference.variables import random_variables

FRAMEWORKS = "import jax, flax"
PACKAGE = f"{FRAMEWORKS}, bottleneck_transformer_flax"
NAMES = f"{PACKAGE}; from bottleneck_transformer_flax import BoTNet, get_config, load_pretrained"
BOTNET = (sys.executable, "-m", "bottleneck_transformer_flax")


@dataclass(frozen=True)
class Command:
    """A command whose first line is waited for.

    Attributes:
        name: what is typed.
        command: the program and its arguments.
        environment: its environment, anew for every call.
    """

    name: str
    command: Sequence[str]
    environment: Callable[[], Mapping[str, str]]

    def time(self, calls: int) -> float:
        """Seconds until the first line, in the mean of so many calls.

        Raises:
            subprocess.CalledProcessError: when the command fails.
        """
        environments = [self.environment() for _ in range(calls)]
        return sum(seconds_to_first_line(self.command, each) for each in environments) / calls


def seconds_to_first_line(command: Sequence[str], environment: Mapping[str, str]) -> float:
    """Seconds until a process prints its first line, or else ends.

    Raises:
        subprocess.CalledProcessError: when it fails.
    """
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=dict(environment)) as process:
        assert process.stdout is not None
        process.stdout.readline()
        seconds = time.perf_counter() - start
        process.stdout.read()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return seconds


def commands(variant: str, folder: Path) -> list[Command]:
    """All that is measured; predictions with an empty and with a filled cache of programs."""
    write_model(variant, folder / "model")
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "image.png")
    words = ("predict", str(folder / "image.png"), "--checkpoint", str(folder / "model"), "--json")
    inherited = {name: value for name, value in os.environ.items() if "COMPILATION" not in name}
    numbers = count()

    def empty_cache() -> Mapping[str, str]:
        return inherited | {"XDG_CACHE_HOME": str(folder / f"cache-{next(numbers)}")}

    def filled_cache() -> Mapping[str, str]:
        return inherited | {"XDG_CACHE_HOME": str(folder / "cache")}

    return [
        *(
            Command(f'python -c "{code}"', (sys.executable, "-c", code), lambda: os.environ)
            for code in (FRAMEWORKS, PACKAGE, NAMES)
        ),
        Command("botnet --help", (*BOTNET, "--help"), lambda: os.environ),
        Command("botnet predict --help", (*BOTNET, "predict", "--help"), lambda: os.environ),
        Command(f"botnet predict, {variant}, empty cache", (*BOTNET, *words), empty_cache),
        Command(f"botnet predict, {variant}, once more", (*BOTNET, *words), filled_cache),
    ]


def write_model(variant_name: str, directory: Path) -> None:
    """Write a pretrained directory of a variant with random weights."""
    variant = get_variant(variant_name)
    model = BoTNet(config=variant.config)
    variables = random_variables(abstract_variables(model, variant.image_size))
    classes = tuple(f"class {index}" for index in range(variant.config.num_classes))
    save_pretrained(directory, model, variables, Preprocessing(size=variant.image_size), classes)


def run(arguments: Sequence[str]) -> int:
    """Measure the time to start, each command in a process of its own."""
    parser = make_parser("start-up", __doc__)
    add_rounds(parser, 7)
    parser.add_argument(
        "--variant", default="botnet_t3", help="the model that predicts (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    use_cpu()
    results = Results(options, "start-up")
    with tempfile.TemporaryDirectory() as folder, progress() as say:
        timed = commands(options.variant, Path(folder))
        pace = Pace(rounds=options.rounds, turn_seconds=0.0)
        turns: dict[str, Turns] = take_turns(timed, pace, say)
    results.add(
        [
            timed_row(
                Row(benchmark="start-up", case="first line", implementation=each.name),
                turns[each.name],
                turns[timed[0].name],
            )
            for each in timed
        ]
    )
    return results.finish()

"""What a GPU makes of this library: fused attention, T3 beside timm's, T7 beside EfficientNet-B7.

    python -m benchmarks gpu --out FOLDER

It needs jax, flax, optax, torch and timm, and takes about ten minutes. The sections come in order
of importance, and FOLDER/gpu.csv holds all that is known after each, so a call that is cut short
loses only the section it was in; --only measures single ones. Without a GPU, --small shows at tiny
sizes that the script works.
"""

import argparse
import time
import traceback
from collections.abc import Callable, Mapping, Sequence

import jax

from benchmarks.gpu_sections import FULL, SECTIONS, SMALL, Settings
from benchmarks.options import Results, make_parser
from benchmarks.results import FAILED, Row
from bottleneck_transformer_flax.errors import ConfigError


def measure_sections(
    sections: Mapping[str, Callable[[Settings], list[Row]]], settings: Settings, results: Results
) -> None:
    """Run all sections; one that fails is a row that says why, and the others still run."""
    for name, section in sections.items():
        began = time.monotonic()
        try:
            rows = section(settings)
        except Exception as error:
            traceback.print_exc()
            line = next(iter(str(error).splitlines()), "")
            status = f"{FAILED}: {type(error).__name__}: {line[:200]}"
            rows = [Row(benchmark=name, case="all", status=status)]
        print(f"{name}: {time.monotonic() - began:.0f} s")
        results.add(rows)


def run(arguments: Sequence[str]) -> int:
    """Measure the sections; 1 where something failed, which its row says."""
    options = _options(arguments)
    if not options.small and jax.default_backend() != "gpu":
        raise ConfigError(
            "jax finds no GPU, which the full sizes need; install jax for this GPU, or pass "
            "--small to see that the script works"
        )
    results = Results(options, "gpu")
    chosen = {name: SECTIONS[name] for name in SECTIONS if name in (options.only or SECTIONS)}
    measure_sections(chosen, SMALL if options.small else FULL, results)
    return results.finish()


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = make_parser("gpu", __doc__)
    parser.add_argument(
        "--small",
        action="store_true",
        help="tiny sizes, on a CPU too: shows that the script works and measures nothing",
    )
    parser.add_argument(
        "--only", nargs="+", choices=list(SECTIONS), metavar="SECTION", help=", ".join(SECTIONS)
    )
    return parser.parse_args(arguments)

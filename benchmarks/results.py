"""Results of a benchmark: one kind of row, one table, one CSV with the hardware in every line."""

import csv
import dataclasses
import io
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

MEASURED = "measured"
NOT_MEASURED = "not yet measured"
"""Status of a trial at tiny sizes: it shows that a command works, and its figures mean nothing."""
FAILED, SKIPPED = "failed", "skipped"
PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "bottleneck-transformer-flax", "numpy", "pillow"),
    *("torch", "torchvision", "timm", "triton", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13"),
    *("onnxruntime", "openvino"),
)
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One implementation in one case.

    Attributes:
        benchmark: the command, or the section of the GPU script.
        case: the network, or another name of the work.
        implementation: name of the implementation.
        quantity: the part of the result that was compared, where there are several.
        dtype: dtype of the computation.
        height: height of the images in pixels or of the grid in positions; ``width`` likewise.
        batch_size: images or grids computed together.
        per_second: images or grids per second, by the median.
        seconds: median over the rounds of the seconds a call took.
        lowest_seconds: the fastest round's; ``highest_seconds`` the slowest's.
        relative_time: median over the rounds of its seconds ÷ the first implementation's.
        mfu: its FLOPs per second ÷ those of the fastest large matrix product in the same rounds.
        memory_bytes: on a CPU the process's peak since it was built; on a GPU what a call needs, by
            XLA's analysis, or the most that PyTorch had allocated.
        temporaries_bytes: temporary buffers of one call, by XLA's analysis.
        compile_seconds: seconds until the first result, without reading the weights.
        difference: distance of its outputs from the first implementation's.
        rounds: number of rounds.
        calls: number of calls in all rounds.
        status: "measured", "not yet measured", or why it was skipped or failed.
    """

    benchmark: str
    case: str
    implementation: str = ""
    quantity: str = ""
    dtype: str = "float32"
    height: int | None = None
    width: int | None = None
    batch_size: int | None = None
    per_second: float | None = None
    seconds: float | None = None
    lowest_seconds: float | None = None
    highest_seconds: float | None = None
    relative_time: float | None = None
    mfu: float | None = None
    memory_bytes: int | None = None
    temporaries_bytes: int | None = None
    compile_seconds: float | None = None
    difference: float | None = None
    rounds: int | None = None
    calls: int | None = None
    status: str = MEASURED

    @property
    def failed(self) -> bool:
        """Whether something went wrong."""
        return self.status.startswith(FAILED)


def conditions() -> dict[str, str]:
    """The hardware, the versions of Python and of the packages that are installed, and the date."""
    device = jax.devices()[0]
    versions = {name: package_version(name) for name in PACKAGES}
    return {
        "hardware": _processor() if device.platform == "cpu" else device.device_kind,
        "python": platform.python_version(),
        **{name: found for name, found in versions.items() if found is not None},
        "date": date.today().isoformat(),
    }


def package_version(name: str) -> str | None:
    """Version of an installed package, else None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def csv_text(rows: Sequence[Any], measured_on: Mapping[str, str]) -> str:
    """Write a line for every row, a dataclass, with the conditions in the last columns."""
    records = [dataclasses.asdict(row) | dict(measured_on) for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


Format = Callable[[Any], str]
_MEGABYTES: Format = lambda count: f"{count / 1e6:,.0f}"  # noqa: E731
_MILLISECONDS: Format = lambda seconds: f"{1e3 * seconds:.4g}"  # noqa: E731
COLUMNS: dict[str, tuple[str, Format]] = {
    "per_second": ("per second", lambda rate: f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"),
    "seconds": ("ms", _MILLISECONDS),
    "lowest_seconds": ("lowest", _MILLISECONDS),
    "highest_seconds": ("highest", _MILLISECONDS),
    "relative_time": ("relative time", lambda ratio: f"{ratio:.2f}"),
    "mfu": ("MFU", lambda fraction: f"{100 * fraction:.0f} %"),
    "memory_bytes": ("MB", _MEGABYTES),
    "temporaries_bytes": ("temporaries MB", _MEGABYTES),
    "compile_seconds": ("compile s", lambda seconds: f"{seconds:.1f}"),
    "difference": ("difference", lambda difference: f"{difference:.0e}"),
}


def table_text(rows: Sequence[Any], columns: Mapping[str, tuple[str, Format]] = COLUMNS) -> str:
    """Write the rows, dataclasses, as a table in plain text, without its empty columns.

    Args:
        rows: what to show.
        columns: headings and formats by field; other fields are shown as they are.
    """
    shown = []
    for field in dataclasses.fields(rows[0]):
        heading, form = columns.get(field.name, (field.name.replace("_", " "), str))
        values = [getattr(row, field.name) for row in rows]
        if any(value not in (None, "") for value in values):
            cells = [heading, *("" if value is None else form(value) for value in values)]
            align = str.ljust if isinstance(values[0], str) else str.rjust
            width = max(map(len, cells))
            shown.append([align(cell, width) for cell in cells])
    return "\n".join("  ".join(line).rstrip() for line in zip(*shown, strict=True))


@contextmanager
def progress() -> Iterator[Say]:
    """Yield a function that shows on a terminal what is being done."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status("") as status:
        yield status.update

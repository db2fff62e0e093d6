"""On what, with what and when something was measured."""

import os
import platform
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import jax

from benchmarks.implementations import package_version

OURS = ("jax", "flax", "bottleneck-transformer-flax")
PEERS = ("torch", "timm", "onnxruntime", "openvino")


def conditions(packages: Sequence[str] = OURS) -> dict[str, str]:
    """The hardware, Python, the day, and the version of every package that is installed."""
    device = jax.devices()[0]
    versions = {name: package_version(name) for name in packages}
    return {
        "hardware": _processor() if device.platform == "cpu" else device.device_kind,
        "python": platform.python_version(),
        **{name: version for name, version in versions.items() if version is not None},
        "date": date.today().isoformat(),
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def available_memory_bytes() -> int | None:
    """What processes may still take; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return 1024 * kilobytes[0] if kilobytes else None

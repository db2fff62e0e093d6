"""How a run is asked to stop, and how it ended."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from bottleneck_transformer_flax.data.bad_images import BadImages
from bottleneck_transformer_flax.training.run_directory import RunDirectory


@dataclass
class StopRequest:
    """Set by a signal handler or a test; the loop looks at it after every step."""

    requested: bool = False


class Outcome(NamedTuple):
    """How a run ended."""

    run: RunDirectory
    step: int
    finished: bool
    evaluation: dict[str, Any] | None
    bad_images: BadImages

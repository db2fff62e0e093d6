"""What a run would take, in words: ``botnet train --dry-run``."""

import dataclasses
import json

from rich.console import Console

from bottleneck_transformer_flax.cli.console import say
from bottleneck_transformer_flax.cli.plan_text import counted, plan_lines
from bottleneck_transformer_flax.distributed import is_primary_process
from bottleneck_transformer_flax.training.estimate import estimate
from bottleneck_transformer_flax.training.setup import Plan


def say_estimate(console: Console, plan: Plan, *, as_json: bool) -> int:
    """Print it, or one JSON line with all of it, and return the exit code."""
    say(console, *plan_lines(plan))
    found = estimate(plan)
    if as_json:
        if is_primary_process():
            print(json.dumps(dataclasses.asdict(found) | {"seconds": found.seconds}))
        return 0
    temporaries = found.temporaries_bytes
    memory = f"{found.state_bytes / 1e6:,.0f} MB for the state"
    if temporaries is not None:
        memory += f" and {temporaries / 1e6:,.0f} MB during a step"
    say(console, f"steps   {found.steps:,}, {found.images:,} images")
    where = "the device" if found.devices == 1 else f"each of {found.devices} devices"
    say(console, f"memory  {memory}, on {where}")
    say(
        console,
        f"time    {_duration(found.seconds)}: {1e3 * found.step_seconds:,.0f} ms a step "
        f"({1e3 * found.input_seconds:,.0f} of them waiting for images), "
        f"{counted(found.evaluations, 'evaluation')} of {found.evaluation_seconds:,.1f} s, "
        f"{found.compile_seconds:,.0f} s to compile",
    )
    if plan.config.input.progressive_phases > 1:
        say(console, "        every step as if its images were of the last phase, the largest")
    return 0


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    if hours >= 48:
        return f"{hours / 24:,.1f} days"
    return f"{hours:,.1f} hours" if hours >= 1 else f"{minutes:,.1f} minutes"

"""Records of runs that earlier commits wrote, as this one would have written them."""

from typing import Any


def updated(values: dict[str, Any]) -> dict[str, Any]:
    """The content of a ``run.json`` of any commit as one of this commit."""
    if "fine_tuning" in values:
        return values
    inputs = dict(values["input"])
    # Before there was fine-tuning, records always held these two, also where they were defaults.
    for name, former_default in (("eval_crop", 0.875), ("interpolation", "bicubic")):
        if inputs.get(name) == former_default:
            inputs[name] = None
    return values | {"fine_tuning": {}, "input": inputs}

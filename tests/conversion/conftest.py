"""Fixtures of this folder."""

from checkpoints.conftest import refusal
from conversion.small_timm import arrays, config, file
from reference.hub import hub

__all__ = ["arrays", "config", "file", "hub", "refusal"]

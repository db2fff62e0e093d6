"""Fixtures of this folder."""

from conversion.small_timm import arrays, config, file
from reference.hub import hub

__all__ = ["arrays", "config", "file", "hub"]

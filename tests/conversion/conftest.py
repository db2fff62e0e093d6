"""Fixtures of this folder."""

from conversion.small_timm import arrays, config, file
from reference.hub_client import hub

__all__ = ["arrays", "config", "file", "hub"]

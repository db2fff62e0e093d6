"""The shared fixtures, for this folder."""

from training.tiny import small_variant

__all__ = ["small_variant"]

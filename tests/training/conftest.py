"""The shared fixtures, for this folder."""

from training.tiny import compiled_once, small_variant

__all__ = ["compiled_once", "small_variant"]

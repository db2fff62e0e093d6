"""Records may be built of what JSON has, as in the other upper rooms."""

from training import tiny

__all__ = ["tiny"]

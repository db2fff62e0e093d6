"""The shared fixtures, for this folder."""

from checkpoints.hub_sharing import logged_in, refusal, small_directory, small_variables
from reference.hub_client import hub
from training.tiny import compiled_once, small_variant

__all__ = ["compiled_once", "hub", "logged_in", "refusal", "small_directory", "small_variables"]
__all__ += ["small_variant"]

"""The shared fixtures, for this folder."""

from checkpoints.hub_sharing import logged_in, refusal, small_directory, small_variables
from reference.hub_client import hub
from training.tiny import small_variant

__all__ = ["hub", "logged_in", "refusal", "small_directory", "small_variables"]
__all__ += ["small_variant"]

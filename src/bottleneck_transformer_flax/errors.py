"""What a user can do wrong, as exceptions whose message is one clear line.

The command line prints the message alone; anything that is not one of these is a defect of
the package and keeps its traceback.
"""


class BoTNetError(ValueError):
    """Something the caller can mend; the message names it, what was expected, and the remedy."""


class ConfigError(BoTNetError):
    """A configuration, an option or an input size that no model or run can have."""


class DataError(BoTNetError):
    """A data set or an image that cannot be used."""


class CheckpointError(BoTNetError):
    """A checkpoint or pretrained directory that is missing, damaged or of another model."""


class TrainingError(BoTNetError):
    """A training run that cannot go on."""

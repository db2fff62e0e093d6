"""A pretrained model, wherever it is: on this machine, or on the hub in our format or timm's."""

from pathlib import Path

from bottleneck_transformer_flax.checkpoints.hub import means_repository
from bottleneck_transformer_flax.checkpoints.pretrained import (
    Pretrained,
    at_size,
    read_pretrained,
)
from bottleneck_transformer_flax.checkpoints.pretrained_files import find_pretrained
from bottleneck_transformer_flax.conversion.importing import import_checkpoint
from bottleneck_transformer_flax.models.execution import Execution


def load_pretrained(
    source: str | Path,
    *,
    image_size: tuple[int, int] | None = None,
    execution: Execution = Execution(),
) -> Pretrained:
    """Load a model with everything that inference needs.

    Args:
        source: pretrained directory, run directory (its ``pretrained/`` is loaded), repository of
            the Hugging Face hub ("owner/name" or "owner/name@revision") in this package's format or
            in timm's, which is converted, or "botnet_tiny", which ships with the package.
        image_size: (height, width) to run the model at; by default the size it was saved at.
            Relative position tables are interpolated linearly, and the change is logged (see
            ``resize_relative_positions``).
        execution: how the model is computed.

    Raises:
        CheckpointError: when the source is missing, damaged, inconsistent, or another kind of
            model; the message counts the names and shapes that do not fit, and gives the first.
        ConfigError: when ``image_size`` is not (height, width), or too small for the model.
    """
    if isinstance(source, Path) or not means_repository(source):
        pretrained = read_pretrained(find_pretrained(source))
    else:
        pretrained = import_checkpoint(source).pretrained
    model = pretrained.model.clone(execution=execution)
    return at_size(pretrained._replace(model=model), image_size)

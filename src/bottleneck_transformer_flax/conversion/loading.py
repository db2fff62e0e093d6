"""A pretrained model, wherever it is: on this machine, or on the hub in our format or timm's."""

from pathlib import Path

from bottleneck_transformer_flax.checkpoints.hub import means_repository
from bottleneck_transformer_flax.checkpoints.pretrained import (
    Pretrained,
    at_size,
    read_pretrained,
)
from bottleneck_transformer_flax.checkpoints.pretrained_files import CONFIG, find_pretrained
from bottleneck_transformer_flax.conversion.importing import import_checkpoint
from bottleneck_transformer_flax.models.execution import Execution
from bottleneck_transformer_flax.own_output import has_timm_format


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
            in timm's, which is converted, folder with a copy of one, or "botnet_tiny", which ships
            with the package.
        image_size: (height, width) to run the model at; by default the size it was saved at.
            Relative position tables are interpolated linearly, and the change is logged (see
            ``resize_relative_positions``).
        execution: how the model is computed.

    Raises:
        CheckpointError: when the source is missing, damaged, inconsistent, or another kind of
            model; the message counts the names and shapes that do not fit, and gives the first.
        ConfigError: when ``image_size`` is not (height, width), or too small for the model.
    """
    on_hub = not isinstance(source, Path) and means_repository(source)
    if on_hub or has_timm_format(Path(source) / CONFIG):
        pretrained = import_checkpoint(source).pretrained
    else:
        pretrained = read_pretrained(find_pretrained(source))
    model = pretrained.model.clone(execution=execution)
    return at_size(pretrained._replace(model=model), image_size)

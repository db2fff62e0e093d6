"""The images that a command scores or calibrates a model with: by default those of its run."""

from typing import TYPE_CHECKING, Literal

from bottleneck_transformer_flax.checkpoints.pretrained_files import EMBEDDED
from bottleneck_transformer_flax.errors import ConfigError, DataError
from bottleneck_transformer_flax.training.recipes import default_config
from bottleneck_transformer_flax.training.run_directory import RunDirectory

if TYPE_CHECKING:
    from bottleneck_transformer_flax.data.datasets import Splits
    from bottleneck_transformer_flax.data.sources.base import ImageSource
    from bottleneck_transformer_flax.training.run_images import RunImages

Split = Literal["train", "validation", "test", "all"]


def images_of(checkpoint: str, trained: RunDirectory | None) -> "RunImages":
    """The images that a model was trained on; without a place where they are unknown."""
    from bottleneck_transformer_flax.data.datasets import digest_splits, load_splits
    from bottleneck_transformer_flax.training.run_images import RunImages

    if trained is not None:
        return RunImages.of_run(trained)
    config = default_config("embedded")
    if checkpoint in EMBEDDED:
        return RunImages(checkpoint, config, digest_splits(load_splits("embedded")), ("embedded",))
    return RunImages(checkpoint, config, {}, ())


def choose_images(
    images: "RunImages", data: str | None, split: Split | None
) -> "tuple[ImageSource, Split, str, Splits | None]":
    """The images of a split, the split, their data set, and its splits if it is the model's own.

    Args:
        images: the images that the model was trained on.
        data: the data set; by default the model's own.
        split: the split; by default the test split, else validation, else all of an unsplit folder.
    """
    from bottleneck_transformer_flax.cli.console import print_notes
    from bottleneck_transformer_flax.data.datasets import comes_in_parts, load_folder_all
    from bottleneck_transformer_flax.training.run_images import load_images

    data, splits = (data, None) if data is not None else _own_images(images)
    in_parts = comes_in_parts(data)
    try:
        splits = splits or load_images(images.config, data)
    except DataError:
        # Images that cannot be split, such as one of each class, can be scored as a whole.
        if in_parts or split not in (None, "all"):
            raise
        whole = load_folder_all(data)
        print_notes(whole.notes)
        return whole, "all", data, None
    print_notes(splits.notes)
    own = splits if images.are(splits) else None
    held_out: Split = "validation" if splits.test is None else "test"
    wanted = split or (held_out if own or in_parts else "all")
    if wanted == "all" and not in_parts:
        return load_folder_all(data), "all", data, own
    source: ImageSource | None = splits._asdict().get(wanted)
    if source is None:
        raise ConfigError(_missing_split(wanted, splits, data, in_parts))
    return source, wanted, data, own


def _missing_split(wanted: Split, splits: "Splits", data: str, in_parts: bool) -> str:
    """Why there is no such split, and which there are."""
    if splits.validation is None and not in_parts:
        why = f"no images of the folder {data!r} are held out, because the run held none out"
    else:
        why = f"the data set {data!r} has no {wanted} split"
    there = [name for name in ("train", "validation", "test") if splits._asdict()[name] is not None]
    choices = " or ".join(f"--split {name}" for name in [*there, *["all"] * (not in_parts)])
    return f"{why}; choose {choices}, or name other images with --data"


def _own_images(images: "RunImages") -> "tuple[str, Splits]":
    """Where the images of the model's run are, and the images."""
    if not images.places:
        raise ConfigError(
            f"{images.owner} is not inside a run, so the images it was trained with are unknown; "
            "name images with --data"
        )
    try:
        return images.find()
    except DataError as error:
        raise DataError(f"{error}; name their folder with --data") from error

"""Where a picture may be written. No matplotlib."""

from pathlib import Path

from bottleneck_transformer_flax.errors import ConfigError


def check_png_path(path: Path) -> None:
    """See that a picture can be written here, before any work is done for it.

    Raises:
        ConfigError: when ``path`` does not end in ``.png``, or its folder does not exist.
    """
    if path.suffix.lower() != ".png":
        raise ConfigError(f"figure path is {path}; expected a name that ends in .png")
    if not path.parent.is_dir():
        raise ConfigError(
            f"figure path is {path}, but {path.parent} is not a folder; "
            "create it or choose another path"
        )

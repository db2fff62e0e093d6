"""The shapes of a model's variables, kept where JAX keeps compiled programs.

Tracing a large model only to know what to expect of its weights takes as long as reading them.
"""

import contextlib
import gzip
import hashlib
import json
import zlib
from pathlib import Path

import flax
import jax
from flax.traverse_util import flatten_dict

import bottleneck_transformer_flax
from bottleneck_transformer_flax.files import write_bytes
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.flops import abstract_variables

Shapes = dict[str, jax.ShapeDtypeStruct]


def expected_variables(model: BoTNet, image_size: tuple[int, int]) -> Shapes:
    """Shape and dtype of every variable, by its path; traced only where nobody has before.

    Raises:
        ConfigError: as ``abstract_variables``.
    """
    file = _kept_in(model, image_size)
    if file is not None and (kept := _read(file)) is not None:
        return kept
    traced: Shapes = flatten_dict(abstract_variables(model, image_size), sep=".")
    if file is not None:
        with contextlib.suppress(OSError):
            _write(file, traced)
    return traced


def _kept_in(model: BoTNet, image_size: tuple[int, int]) -> Path | None:
    """The file of a model's shapes, named by all that they follow from; None to keep none."""
    folder = jax.config.values["jax_compilation_cache_dir"]
    kept = jax.config.values["jax_enable_compilation_cache"]
    if not folder or not kept or not Path(folder).is_dir():
        return None
    package = Path(bottleneck_transformer_flax.__file__).parent
    sources = sorted(
        path for room in ("models", "layers") for path in (package / room).glob("*.py")
    )
    follows_from = hashlib.sha256(json.dumps(model.config.to_json(), sort_keys=True).encode())
    for part in (repr(image_size), jax.__version__, flax.__version__):
        follows_from.update(part.encode())
    for path in sources:
        follows_from.update(path.read_bytes())
    return Path(folder) / f"shapes-{follows_from.hexdigest()}"


def _read(file: Path) -> Shapes | None:
    """What ``_write`` wrote; None where it is not there, or not whole."""
    try:
        kept = json.loads(gzip.decompress(file.read_bytes()))
    except (OSError, EOFError, ValueError, zlib.error):
        return None
    return {
        name: jax.ShapeDtypeStruct(tuple(shape), dtype) for name, (shape, dtype) in kept.items()
    }


def _write(file: Path, shapes: Shapes) -> None:
    text = json.dumps({name: (leaf.shape, str(leaf.dtype)) for name, leaf in shapes.items()})
    # Compressed for the checksum that comes with it.
    write_bytes(file, gzip.compress(text.encode()))

"""``botnet features IMAGE…``: pooled features, for search, clustering and nearest neighbours."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from bottleneck_transformer_flax.cli import options
from bottleneck_transformer_flax.cli.console import counting_progress
from bottleneck_transformer_flax.cli.image_inputs import PredictorOptions, results_of_images
from bottleneck_transformer_flax.errors import ConfigError, DataError, require_extra
from bottleneck_transformer_flax.files import atomic_file


@dataclass(frozen=True, kw_only=True)
class FeaturesOptions(PredictorOptions):
    """Write the pooled features of images, which the model's last layer classifies.

    A .npz file holds "names" and "features", (images, features) of float32; a .parquet file has
    a row for each image with these two. A file that cannot be read is reported and left out; the
    exit code is then 1.
    """

    out: Path
    """The .npz or .parquet file to write."""
    json: bool = False
    """Print a summary as one line of JSON."""


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    parsed = options.parse(FeaturesOptions, "features", arguments)
    if parsed.out.suffix not in (".npz", ".parquet"):
        raise ConfigError(f"--out is {parsed.out}; expected the name of a .npz or .parquet file")
    if parsed.out.suffix == ".parquet":
        require_extra("data", ["pyarrow"], "a .parquet file", ConfigError)
    checkpoint, predictor = parsed.load()
    names: list[str] = []
    rows: list[np.ndarray] = []
    failures = 0

    def report_error(_: str, error: DataError) -> None:
        nonlocal failures
        failures += 1
        print(f"botnet: error: {error}", file=sys.stderr)

    with counting_progress(Console(stderr=True, emoji=False)) as progress:
        task = progress.add_task("computing", total=None)
        for name, found in results_of_images(parsed.images, predictor.features, report_error):
            assert found.features is not None
            names.append(name)
            rows.append(found.features)
            progress.advance(task)
    if not rows:
        raise DataError(f"no image could be read, so {parsed.out} was not written")
    features = np.stack(rows)
    _write(parsed.out, names, features)
    if parsed.json:
        summary = {"checkpoint": checkpoint, "out": str(parsed.out), "count": len(names)}
        print(json.dumps(summary | {"features": features.shape[1], "errors": failures}))
    else:
        print(f"model    {checkpoint}")
        print(f"written  {parsed.out}: {features.shape[1]} features of {len(names):,} images")
    return 1 if failures else 0


def _write(path: Path, names: list[str], features: np.ndarray) -> None:
    with atomic_file(path) as beside:
        if path.suffix == ".npz":
            with beside.open("wb") as stream:
                np.savez(stream, names=np.array(names), features=features)
            return
        import pyarrow as pa
        from pyarrow import parquet

        rows = pa.FixedSizeListArray.from_arrays(features.reshape(-1), features.shape[1])
        parquet.write_table(pa.table({"name": names, "features": rows}), beside)

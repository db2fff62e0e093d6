"""Make the embedded data set: a stratified part of Fashion-MNIST, the same bytes every time.

    python scripts/make_embedded_data.py SOURCE_DIR OUT

SOURCE_DIR holds the idx .gz files of Debian's package dataset-fashion-mnist; OUT is the .npz.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from bottleneck_transformer_flax.data.fashion_mnist import (
    CLASS_NAMES,
    LabelledImages,
    read_split,
)
from bottleneck_transformer_flax.errors import DataError


def take_per_class(
    split: LabelledImages, per_class: int, rng: np.random.Generator
) -> LabelledImages:
    """Draw the same number of images from every class; they keep their order."""
    chosen = []
    for label, name in enumerate(CLASS_NAMES):
        of_class = np.flatnonzero(split.labels == label)
        if len(of_class) < per_class:
            raise DataError(f"class {name!r} has {len(of_class)} images; expected {per_class}")
        chosen.append(rng.choice(of_class, per_class, replace=False))
    rows = np.sort(np.concatenate(chosen))
    return LabelledImages(split.images[rows], split.labels[rows])


def make(source: Path, out: Path, *, train_per_class: int, test_per_class: int) -> None:
    """Write the .npz with the images drawn from both splits."""
    rng = np.random.default_rng(0)
    train = take_per_class(read_split(source, "train"), train_per_class, rng)
    test = take_per_class(read_split(source, "t10k"), test_per_class, rng)
    # A file object, because np.savez would add a suffix to a path that has none.
    with out.open("wb") as file:
        np.savez_compressed(
            file,
            train_images=train.images,
            train_labels=train.labels,
            test_images=test.images,
            test_labels=test.labels,
            class_names=np.array(CLASS_NAMES),
        )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source_dir", type=Path, help="folder with the idx .gz files")
    parser.add_argument("out", type=Path, help="the .npz to write")
    parser.add_argument("--train-per-class", type=int, default=600)
    parser.add_argument("--test-per-class", type=int, default=100)
    options = parser.parse_args(arguments)
    try:
        make(
            options.source_dir,
            options.out,
            train_per_class=options.train_per_class,
            test_per_class=options.test_per_class,
        )
    except DataError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{options.out}: {options.out.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())

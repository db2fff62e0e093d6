"""Readers show the same parts of photographs that cost what photographs cost to decode."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import readers
from benchmarks.photographs import USUAL_SIZE, write_photographs
from benchmarks.readers import ReaderCase
from benchmarks.torch_reader import part_of_image


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    write_photographs(folder, 3, USUAL_SIZE)
    return folder


def case(folder: Path, size=(40, 48), policy="none") -> ReaderCase:
    return ReaderCase(
        root=folder,
        names=("0000.jpg", "0002.jpg"),
        size=size,
        batch_size=2,
        num_workers=1,
        policy=policy,
    )


def test_photographs_are_the_same_each_time_and_as_large_as_imagenets(folder, tmp_path):
    write_photographs(tmp_path, 1, USUAL_SIZE)
    assert (tmp_path / "0000.jpg").read_bytes() == (folder / "0000.jpg").read_bytes()
    assert 90_000 < (folder / "0000.jpg").stat().st_size < 130_000


def test_all_readers_show_the_same_parts(folder, tmp_path):
    size = (224, 224)
    work = case(folder, size)
    work.write(tmp_path)
    ours, plain = (readers.build(work, tmp_path, reader=name) for name in ("threads", "plain-loop"))
    try:
        ours.run(2)
        assert ours.outputs[0].shape == (8, *size, 3)
        # The same pixels, by other code.
        np.testing.assert_array_equal(ours.outputs[0], plain.outputs[0])
        theirs = [part_of_image(path, box, size) for path, box in work.example_parts(tmp_path)]
        assert 0 < work.difference((np.stack(theirs),), ours.outputs) < 0.2
        assert work.difference((ours.outputs[0][:1],), ours.outputs) == np.inf
    finally:
        ours.close()
        plain.close()

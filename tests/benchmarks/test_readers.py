"""Readers show the same parts of photographs that cost what photographs cost to decode."""

from dataclasses import replace

import numpy as np

from benchmarks import readers
from benchmarks.photographs import USUAL_SIZE, write_photographs
from benchmarks.readers import ReaderCase
from benchmarks.torch_reader import part_of_image


def test_photographs_are_the_same_each_time_and_as_large_as_imagenets(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        write_photographs(tmp_path / name, 1, USUAL_SIZE)
    first, second = ((tmp_path / name / "0000.jpg").read_bytes() for name in ("first", "second"))
    assert first == second
    assert 90_000 < len(first) < 130_000


def test_all_readers_show_the_same_parts(tmp_path):
    write_photographs(tmp_path, 2, USUAL_SIZE)
    names, size = ("0000.jpg", "0001.jpg"), (224, 224)
    work = ReaderCase(
        root=tmp_path, names=names, size=size, batch_size=2, num_workers=0, policy="none"
    )
    work.write(tmp_path)
    ours = readers.build(work, tmp_path)
    plain = readers.build(replace(work, num_workers=1), tmp_path, plain=True)
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

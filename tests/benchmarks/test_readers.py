"""Readers show the same parts of photographs that cost what photographs cost to decode."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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


def test_photographs_are_like_photographs_and_the_same_each_time(folder, tmp_path):
    write_photographs(tmp_path, 2, USUAL_SIZE)
    for name in ("0000.jpg", "0001.jpg"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
        # ImageNet's have 110 KB.
        assert 90_000 < (folder / name).stat().st_size < 130_000
    pixels = np.asarray(Image.open(folder / "0000.jpg").convert("L")).astype(float)
    assert pixels.shape == USUAL_SIZE
    assert 25 < pixels.std() < 75
    # Amplitudes fall as 1/f: ten times the frequency has about a hundredth of the power.
    power = np.abs(np.fft.rfft2(pixels)) ** 2
    frequency = np.hypot(np.fft.fftfreq(375)[:, None], np.fft.rfftfreq(500)[None])
    low = power[(frequency > 0.02) & (frequency < 0.03)].mean()
    high = power[(frequency > 0.2) & (frequency < 0.3)].mean()
    assert 30 < low / high < 300


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


@pytest.mark.parametrize("policy", ["none", "rand"])
def test_the_plain_loop_reads_as_many_images_as_it_says(folder, monkeypatch, policy):
    resized = []
    resize = Image.Image.resize

    def counted(image, size, *rest):
        resized.append(size)
        return resize(image, size, *rest)

    monkeypatch.setattr(Image.Image, "resize", counted)
    readers.read_plainly(case(folder, policy=policy), 0, 5)
    assert resized == [(48, 40)] * 5

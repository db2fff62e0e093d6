"""Packing: the same images, labels and split as before, whatever it is interrupted by."""

import hashlib
import json
import os

import array_record.python.array_record_module as array_record
import msgpack
import numpy as np
import pytest

from bottleneck_transformer_flax.data import shards
from bottleneck_transformer_flax.data.datasets import (
    digest_splits,
    fingerprint,
    load_parts,
    load_splits,
)
from bottleneck_transformer_flax.data.packing import pack
from bottleneck_transformer_flax.data.sources import walking
from bottleneck_transformer_flax.data.sources.base import ImageSource
from bottleneck_transformer_flax.data.sources.memory import ArraySource
from bottleneck_transformer_flax.errors import ConfigError, DataError
from bottleneck_transformer_flax.figures.style import new_figure, save_png
from data.image_files import image_bytes, write_images, write_parquet
from reference.damage import cut_short, flip_a_bit

COUNTS = {"ant": 5, "bee": 4, "cat": 8}


@pytest.fixture
def folder(tmp_path):
    """A folder of classes, and what is in its files."""
    return tmp_path / "images", write_images(tmp_path / "images", COUNTS)


def pack_folder(root, out, **options):
    return pack(load_parts(str(root), in_order=True), out, num_workers=0, **options)


def contents_below(folder):
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_what_is_written_is_what_is_documented(folder, tmp_path):
    root, contents = folder
    out = tmp_path / "out"
    packed = pack_folder(root, out, shards=3)
    names = [f"all/part-{number:05}-of-00003.arrayrecord" for number in range(3)]
    assert [*contents_below(out)] == ["all/labels.npy", "all/names.json", *names, "dataset.json"]
    records = []
    for name in names:
        reader = array_record.ArrayRecordReader(str(out / name))
        records += [msgpack.unpackb(content) for content in reader.read_all()]
    assert {record["name"]: record["image"] for record in records} == contents
    assert [list(COUNTS)[record["label"]] for record in records] == [
        record["name"].split("/")[0] for record in records
    ]
    assert json.loads((out / "all/names.json").read_text()) == [r["name"] for r in records]
    labels = np.load(out / "all/labels.npy")
    assert (labels.dtype, labels.tolist()) == (np.int32, [r["label"] for r in records])
    described = json.loads((out / "dataset.json").read_text())
    assert described["class_names"] == list(COUNTS)
    for shard, name in zip(described["parts"]["all"], names, strict=True):
        content = (out / name).read_bytes()
        assert shard["file"] == name
        assert shard["images"] in (5, 6)
        assert shard["bytes"] == len(content)
        assert shard["sha256"] == hashlib.sha256(content).hexdigest()
    assert (packed.images, packed.files, packed.left_out) == ({"all": 17}, 3, ())
    assert packed.bytes == sum(shard["bytes"] for shard in described["parts"]["all"])
    # The same images are held out as from the folder.
    packed, plain = load_splits(str(out)), load_splits(str(root))
    assert fingerprint(packed) == fingerprint(plain)
    assert digest_splits(packed) == digest_splits(plain)


def test_parts_stay_what_they_are(tmp_path):
    """The parts of Parquet files are named as on the hub."""
    images = list(map(image_bytes, range(15)))
    for part, rows in (("train", slice(8)), ("validation", slice(8, 12)), ("test", slice(12, 15))):
        file, labels = tmp_path / f"hub/{part}-00000-of-00001.parquet", [0, 1, 2] * 5
        write_parquet(file, images[rows], labels[rows])
    packed = pack_folder(tmp_path / "hub", tmp_path / "out", shards=4)
    assert (packed.images, packed.files) == ({"train": 8, "val": 4, "test": 3}, 4 + 2 + 2)
    splits = load_splits(str(tmp_path / "out"))
    assert splits.train.names == tuple(f"train-00000-of-00001.parquet/{row}" for row in range(8))
    assert [splits.validation.content(3), splits.test.content(2)] == [images[11], images[14]]


def test_several_processes_write_the_same_bytes(folder, tmp_path):
    root, _ = folder
    pack_folder(root, tmp_path / "one", shards=5)
    done = []
    parts = load_parts(str(root))
    pack(parts, tmp_path / "two", shards=5, num_workers=2, on_image=lambda: done.append(None))
    assert contents_below(tmp_path / "two") == contents_below(tmp_path / "one")
    assert len(done) == 17
    # A packed data set is one that can be packed, too.
    pack_folder(tmp_path / "one", tmp_path / "again", shards=5)
    assert contents_below(tmp_path / "again") == contents_below(tmp_path / "one")


def test_images_in_memory_are_packed_without_loss(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)
    source = ArraySource(pixels, np.array([0, 1, 0, 1, 1], np.int32), ("a", "b"))
    pack({"all": source}, tmp_path / "out", num_workers=0)
    packed = load_parts(str(tmp_path / "out"))["all"]
    assert (packed.labels.tolist(), packed.names) == ([0, 1, 0, 1, 1], source.names)
    np.testing.assert_array_equal([np.asarray(packed.read(index)) for index in range(5)], pixels)


def inodes(out):
    return {file.name: file.stat().st_ino for file in out.glob("*/*.arrayrecord")}


class Interrupted(Exception):
    pass


def interrupt_after(count):
    calls = iter(range(count - 1))

    def on_image():
        if next(calls, None) is None:
            raise Interrupted

    return on_image


def test_it_goes_on_where_it_was_interrupted(folder, tmp_path):
    root, _ = folder
    out, done = tmp_path / "out", []
    # What a process leaves that is killed before its first image, or later, whatever its number.
    out.mkdir()
    (out / ".packing.json.1.new").write_text("half")
    with pytest.raises(Interrupted):
        pack_folder(root, out, shards=4, on_image=interrupt_after(1))
    assert [*contents_below(out)] == ["packing.json"]
    (out / "all/.part-00001-of-00004.arrayrecord.1.new").write_bytes(b"half")
    with pytest.raises(Interrupted):
        pack_folder(root, out, shards=4, on_image=interrupt_after(11))
    names = [f"all/part-{number:05}-of-00004.arrayrecord" for number in range(2)]
    assert [*contents_below(out)] == [*names, "packing.json"]
    with pytest.raises(DataError, match="its packing is unfinished; repeat the same botnet data"):
        load_splits(str(out))
    finished = inodes(out)
    pack_folder(root, out, shards=4, on_image=lambda: done.append(None))
    assert finished.items() <= inodes(out).items()
    assert len(done) == 17
    pack_folder(root, tmp_path / "whole", shards=4)
    assert contents_below(out) == contents_below(tmp_path / "whole")
    (out / "dataset.json").unlink()
    with pytest.raises(DataError, match=r"has ArrayRecord files but no dataset.json"):
        load_splits(str(out))


def test_what_is_finished_is_checked_and_only_what_is_damaged_written_again(folder, tmp_path):
    root, _ = folder
    out = tmp_path / "out"
    packed = pack_folder(root, out, shards=4)
    whole, before = contents_below(out), inodes(out)
    damaged, missing, short = sorted(before)[:3]
    flip_a_bit(out / "all" / damaged)
    (out / "all" / missing).unlink()
    cut_short(out / "all" / short)
    assert pack_folder(root, out, shards=4) == packed
    assert contents_below(out) == whole
    (last,) = set(before) - {damaged, missing, short}
    assert inodes(out)[last] == before[last]


def test_other_images_options_or_files_are_not_mixed_in(folder, tmp_path):
    root, _ = folder
    out = tmp_path / "out"
    with pytest.raises(Interrupted):
        pack_folder(root, out, shards=4, on_image=interrupt_after(11))
    before = contents_below(out)

    def refused(message, **options):
        with pytest.raises(ConfigError, match=message):
            pack_folder(root, out, **options)
        assert contents_below(out) == before

    refused("into other files, such as all/part-00000-of-00004.*: see --shards; name a", shards=5)
    (root / "cat").rename(root / "dog")
    refused("out was packed with other classes: ant, bee, cat; not ant, bee, dog", shards=4)
    (root / "dog").rename(root / "cat")
    (root / "cat/more.png").write_bytes(image_bytes(99))
    refused("out was packed from images of other names or labels", shards=4)
    (out / "packing.json").unlink()
    del before["packing.json"]
    refused("is not empty; name a new folder", shards=4)
    with pytest.raises(ConfigError, match="is a file; name a new folder"):
        pack_folder(root, root / "cat/more.png")


def test_a_bad_image_stops_or_is_left_out(folder, tmp_path):
    root, contents = folder
    out = tmp_path / "out"
    bad, worse = root / "bee/01.jpeg", root / "cat/00.png"
    bad.write_bytes(contents["bee/01.jpeg"][:-50])
    worse.unlink()
    worse.symlink_to(tmp_path / "nowhere")
    packed = pack_folder(root, out, shards=4, skip_bad_images=True)
    first, second = packed.left_out
    assert first.startswith(f"{bad}: cannot be read as an image")
    assert second.startswith(f"{worse}: cannot be read as an image: no such file")
    source = load_parts(str(out))["all"]
    assert packed.images == {"all": len(source)} == {"all": 15}
    for index, name in enumerate(source.names):
        assert source.content(index) == contents[name]
        assert source.class_names[source.labels[index]] == name.split("/")[0]
    # Asked for all of them again, it does not take the ones left out for done.
    with pytest.raises(DataError, match=rf"{bad}: cannot be read.*--skip-bad-images"):
        pack_folder(root, out, shards=4)
    bad.write_bytes(contents["bee/01.jpeg"])
    packed = pack_folder(root, out, shards=4, skip_bad_images=True)
    assert (packed.images, len(packed.left_out)) == ({"all": 16}, 1)


def test_a_figure_that_this_package_drew_is_left_out(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(walking, "_MOST_OPENED", 0)
    root, _ = folder
    save_png(new_figure(1.0, 1.0), root / "bee/sheet.png")
    (reason,) = pack_folder(root, tmp_path / "out").left_out
    assert reason.startswith(f"{root}/bee/sheet.png: is a figure that botnet drew")


def test_a_part_of_bad_images_alone(tmp_path):
    write_images(tmp_path / "images/train", COUNTS)
    for file in write_images(tmp_path / "images/val", COUNTS):
        (tmp_path / "images/val" / file).write_bytes(b"no image")
    with pytest.raises(DataError, match="out/val: none of the images of this part can be read"):
        pack_folder(tmp_path / "images", tmp_path / "out", skip_bad_images=True)
    assert not (tmp_path / "out/dataset.json").exists()


def test_an_image_that_stops_one_process_ends_all(folder, tmp_path):
    root, contents = folder
    (root / "ant/04.png").write_bytes(contents["ant/04.png"][:-50])
    # The other process would wait here for ever: nobody writes to the pipe.
    os.mkfifo(tmp_path / "pipe")
    (root / "cat/07.jpeg").unlink()
    (root / "cat/07.jpeg").symlink_to(tmp_path / "pipe")
    with pytest.raises(DataError, match=r"ant/04.png: cannot be read as an image"):
        pack(load_parts(str(root)), tmp_path / "out", shards=2, num_workers=2)
    assert not list((tmp_path / "out").rglob("*.arrayrecord"))


class DyingSource(ImageSource):
    """Ends the process that reads from it."""

    class_names, names = ("a", "b"), tuple("0123")
    labels = np.zeros(4, np.int32)

    def content(self, index):
        os._exit(7)

    def describe(self, index):
        return "image"


def test_a_process_that_is_ended_from_outside_is_told(tmp_path):
    with pytest.raises(DataError, match="ended with exit code 7; repeat the command to continue"):
        pack({"all": DyingSource()}, tmp_path / "out", shards=2, num_workers=2)


class FullDisk(array_record.ArrayRecordWriter):
    def write(self, record):
        raise RuntimeError("write() failed: No space left on device; writing x; at byte 0")


class LosesABit(array_record.ArrayRecordWriter):
    def write(self, record):
        super().write(record[:-1] + bytes([record[-1] ^ 1]))


@pytest.mark.parametrize(
    ("disk", "message"),
    [
        (FullDisk, "cannot be written: No space left on device$"),
        (LosesABit, "does not read back as it was written; check the disk$"),
    ],
)
def test_a_full_or_lossy_disk_is_one_line(folder, tmp_path, monkeypatch, disk, message):
    monkeypatch.setattr(array_record, "ArrayRecordWriter", disk)
    with pytest.raises(DataError, match=message):
        pack_folder(folder[0], tmp_path / "out")


@pytest.mark.parametrize("options", [{"shards": 0}, {"shards": 18}, {"num_workers": -1}])
def test_options_out_of_range(folder, tmp_path, options):
    with pytest.raises(ConfigError, match=rf"{next(iter(options))} is .*; expected"):
        pack(load_parts(str(folder[0])), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_images_are_spread_evenly_and_not_over_too_many_files(folder, monkeypatch):
    parts = load_parts(str(folder[0]))
    for count in range(1, 18):
        sizes = [len(job.indices) for job in shards.make_jobs(parts, count)]
        assert (len(sizes), sum(sizes)) == (count, 17)
        assert max(sizes) - min(sizes) <= 1
    assert len(shards.make_jobs(parts, None)) == 1
    monkeypatch.setattr(shards, "USUAL_IMAGES", 4)
    assert len(shards.make_jobs(parts, None)) == 5
    monkeypatch.setattr(shards, "MOST_SHARDS", 3)
    assert len(shards.make_jobs(parts, None)) == 3


def test_two_programs_do_not_pack_into_one_folder(folder, tmp_path):
    parts = load_parts(str(folder[0]))

    def meanwhile():
        with pytest.raises(DataError, match="another process is packing into"):
            pack(parts, tmp_path / "out", num_workers=0)

    pack(parts, tmp_path / "out", num_workers=0, on_image=meanwhile)

"""The images of a run are known by what they are, wherever run and images are now."""

import json
from pathlib import Path

import pytest

from bottleneck_transformer_flax.data.sources.base import select
from bottleneck_transformer_flax.errors import DataError
from bottleneck_transformer_flax.training.config import InputOptions, RunConfig
from bottleneck_transformer_flax.training.run_directory import RunDirectory
from bottleneck_transformer_flax.training.run_images import RunImages, load_images, record_images
from data.image_files import write_images

CONFIG = RunConfig(data="photos", input=InputOptions(split_seed=3, validation_fraction=0.3))


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The working directory ``home``, with ``photos`` and a run on them in ``runs/one``."""
    home = tmp_path / "home"
    write_images(home / "photos", {"ant": 10, "bee": 10})
    monkeypatch.chdir(home)
    run = RunDirectory(Path("runs/one"))
    run.create(CONFIG, record_images(run, CONFIG, load_images(CONFIG)))
    return home


def images_of(run):
    return RunImages.of_run(RunDirectory(Path(run)))


def other_images(folder):
    write_images(folder, {"ant": 9, "bee": 10})


def test_they_are_found_where_they_were_however_the_run_is_named(home, monkeypatch):
    assert images_of("runs/one").find()[0] == "photos"
    monkeypatch.chdir(home / "runs")
    # What the record says as text is something else here.
    other_images(home / "runs/photos")
    (home / "link").symlink_to(home / "runs")
    for run in ("one", "../runs/one", home / "link/one"):
        images = images_of(run)
        assert images.place == str(home / "photos")
        place, splits = images.find()
        assert place == str(home / "photos")
        assert (len(splits.train), len(splits.validation)) == (14, 6)


@pytest.mark.parametrize("moved", ["run", "data", "both"])
def test_they_are_found_after_a_move_and_something_else_in_their_place_is_not(
    home, tmp_path, monkeypatch, moved
):
    run = home / "runs/one"
    if moved == "run":
        other_images(tmp_path / "photos")
        (tmp_path / "runs").mkdir()
        run = run.rename(tmp_path / "runs/one")
        expected = "photos"
    elif moved == "both":
        run, expected = tmp_path / "new/runs/one", str(tmp_path / "new/photos")
        home.rename(tmp_path / "new")
        other_images(home / "photos")
        monkeypatch.chdir(tmp_path)
    else:
        (tmp_path / "elsewhere").mkdir()
        (home / "photos").rename(tmp_path / "elsewhere/photos")
        monkeypatch.chdir(tmp_path / "elsewhere")
        other_images(home / "photos")
        expected = "photos"
    assert images_of(run).find()[0] == expected


def test_what_is_there_instead_is_told(home, tmp_path, monkeypatch):
    (home / "photos/ant/00.png").unlink()
    with pytest.raises(DataError) as caught:
        images_of("runs/one").find()
    assert str(caught.value).startswith(
        "the images of runs/one are not found: photos holds other images: 13 training and 6 "
    )
    (home / "photos").rename(tmp_path / "away")
    (tmp_path / "empty/photos").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(DataError) as caught:
        images_of(home / "runs/one").find()
    assert f"not found: {home}/photos does not exist; photos: no images" in str(caught.value)


def test_one_split_may_be_enough_and_a_part_of_them_is_known(home):
    (home / "parts").mkdir()
    (home / "photos").rename(home / "parts/train")
    write_images(home / "parts/val", {"ant": 2, "bee": 3})
    run, config = RunDirectory(Path("runs/two")), CONFIG.replace(data="parts")
    run.create(config, record_images(run, config, load_images(config)))
    images = images_of("runs/two")
    parts = {part: load_images(CONFIG, "parts")._asdict()[part] for part in ("train", "validation")}
    assert [images.splits_of(source) for source in parts.values()] == [["train"], ["validation"]]
    few = select(parts["train"], parts["train"].labels.nonzero()[0])
    assert (images.splits_of(few), images.count_trained_on(few)) == ([], 10)
    # A part that is added changes nothing about those that the run used.
    write_images(home / "parts/test", {"ant": 1, "bee": 1})
    assert images.find()[1].test is not None
    (home / "parts/train/ant/00.png").unlink()
    assert images.find("validation")[0] == "parts"
    with pytest.raises(DataError, match="parts holds other images"):
        images.find("train")


def test_a_data_set_with_a_name_has_no_path(home, monkeypatch):
    run, config = RunDirectory(Path("runs/named")), RunConfig()
    run.create(config, record_images(run, config, load_images(config)))
    assert run.read_images().path is None
    (home / "embedded").mkdir()
    assert images_of("runs/named").find()[0] == "embedded"


def test_of_a_run_without_a_record_they_are_assumed_to_be_what_lies_there(home):
    file = home / "runs/one/run.json"
    record = json.loads(file.read_text())
    del record["images"]
    file.write_text(json.dumps(record))
    images = images_of("runs/one")
    assert (images.digests, images.places) == ({}, ("photos",))
    (home / "photos/ant/00.png").unlink()
    place, splits = images.find()
    assert place == "photos"
    assert images.are(splits)
    assert images.splits_of(splits.train) == []

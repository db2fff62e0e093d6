"""What this package writes is known again wherever it lies, and nothing else is taken for it."""

import json
import shutil
from pathlib import Path

import pytest

from bottleneck_transformer_flax.data.datasets import fingerprint, load_parts, load_splits
from bottleneck_transformer_flax.data.packing import pack
from bottleneck_transformer_flax.data.sources.folder import list_classes, open_folder
from bottleneck_transformer_flax.errors import DataError
from bottleneck_transformer_flax.figures.report import RunPage, report_page
from bottleneck_transformer_flax.figures.style import new_figure, save_png
from bottleneck_transformer_flax.own_output import DESCRIPTION_FILE, PROGRESS_FILE
from bottleneck_transformer_flax.training.config import RunConfig
from bottleneck_transformer_flax.training.run_directory import RunDirectory
from data.image_files import write_images

GOLDENS = Path(__file__).parent / "goldens" / "pretrained"
KINDS = ("run", "packed", "unfinished packing", "pretrained")


def write(kind, folder, images):
    """What a command leaves, from its first moment on, with a picture in it."""
    if kind == "run":
        RunDirectory(folder).create(RunConfig())
    elif kind == "pretrained":
        shutil.copytree(GOLDENS / "first", folder)
    else:
        pack(load_parts(str(images)), folder, num_workers=0)
        if kind == "unfinished packing":
            (folder / DESCRIPTION_FILE).rename(folder / PROGRESS_FILE)
    (folder / "below").mkdir()
    shutil.copy(images / "ant/00.png", folder / "below" / "example.png")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["runs/one", "written", "bee/deep/written"])
def test_it_is_no_image_wherever_it_lies(tmp_path, kind, place):
    images = tmp_path / "images"
    write_images(images, {"ant": 4, "bee": 4})
    before = fingerprint(load_splits(str(images)))
    write(kind, tmp_path / "elsewhere", images)
    shutil.move(tmp_path / "elsewhere", images / place)
    splits = load_splits(str(images))
    assert fingerprint(splits) == before
    shown = place if place.startswith("bee") else place.split("/")[0]
    assert splits.notes == (f"{images}: left out what botnet wrote: '{images / shown}'",)
    if kind in ("run", "pretrained"):
        with pytest.raises(DataError, match="was written by botnet; expected a folder of images"):
            load_splits(str(images / place))
    if shown == place.split("/")[0]:
        (images / "all").mkdir()
        for name in ("ant", "bee"):
            (images / name).rename(images / "all" / name)
        splits = load_splits(str(images))
        assert fingerprint(splits) == before
        assert splits.notes == (f"{images}: folders beside the parts are not used: '{shown}'",)


def test_a_folder_of_runs_without_any_is_no_class(tmp_path):
    write_images(tmp_path, {"ant": 1, "bee": 1})
    (tmp_path / "runs" / "killed at once").mkdir(parents=True)
    source = list_classes(tmp_path)
    assert source.class_names == ("ant", "bee")
    assert source.notes == (f"{tmp_path}: left out what botnet wrote: '{tmp_path / 'runs'}'",)
    write_images(tmp_path / "more", {"runs": 1, "ant": 1})
    assert list_classes(tmp_path / "more").class_names == ("ant", "runs")


def test_figures_and_reports_are_no_images_and_a_folder_of_them_is_no_class(tmp_path):
    before = tuple(sorted(write_images(tmp_path, {"ant": 2, "bee": 2})))
    for name in ("ant/shown.png", "bee/deep/shown.PNG", "pics/shown.png", "test/shown.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        save_png(new_figure(1.0, 1.0), tmp_path / name)
    (tmp_path / "page").mkdir()
    page = RunPage(title="t", run="r")
    for name in ("bee/r.html", "page/r.html"):
        (tmp_path / name).write_text(report_page(page))
    (tmp_path / "ant/saved.html").write_text("<!DOCTYPE html>")
    (source,) = open_folder(tmp_path).values()
    assert source.names == before
    assert source.class_names == ("ant", "bee")
    own = ("ant/shown.png", "bee/deep/shown.PNG", "bee/r.html", "page", "pics")
    named = ", ".join(f"'{tmp_path / name}'" for name in own)
    assert source.notes == (
        f"{tmp_path}: left out what botnet wrote: {named} and 1 more",
        f"{tmp_path}: ignored files that are not images: 1",
    )
    # One with photos that cannot be decoded is a class still, as without the figure.
    (tmp_path / "pics/photo.cr2").touch()
    with pytest.raises(DataError, match=r"no images for 'pics'; a .cr2 file, which cannot be"):
        open_folder(tmp_path)


def test_among_many_pictures_no_file_is_opened_to_see_who_wrote_it(tmp_path):
    """Figures among them are left out when they are decoded."""
    write_images(tmp_path, {"ant": 1, "bee": 1})
    for number in range(20):
        (tmp_path / "bee" / f"{number}.png").touch()
    for name in ("ant", "bee"):
        save_png(new_figure(1.0, 1.0), tmp_path / name / "shown.png")
    assert [name for name in list_classes(tmp_path).names if "shown" in name] == ["bee/shown.png"]


@pytest.mark.parametrize("name", ["run.json", "config.json", "dataset.json", "packing.json"])
@pytest.mark.parametrize("values", [{"format": "coco"}, {"data": "a", "epochs": 1}, ["a"], None])
def test_files_of_others_with_the_same_names_change_nothing(tmp_path, name, values):
    write_images(tmp_path, {"ant": 1, "bee": 1})
    (tmp_path / "ant" / name).write_text("" if values is None else json.dumps(values))
    if name != DESCRIPTION_FILE:
        shutil.copy(tmp_path / "ant" / name, tmp_path)
    source = load_parts(str(tmp_path))["all"]
    assert len(source) == 2
    assert source.notes == (f"{tmp_path}: ignored files that are not images: 1",)

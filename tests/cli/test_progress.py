"""What is shown of a run: a bar and figures on a terminal, and lines everywhere else."""

import dataclasses
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from bottleneck_transformer_flax.cli import progress
from bottleneck_transformer_flax.cli.progress import TrainingDisplay
from bottleneck_transformer_flax.data import loader
from bottleneck_transformer_flax.data.sources.array_record import FORMAT
from bottleneck_transformer_flax.data.sources.folder import FolderSource
from bottleneck_transformer_flax.training.metrics import EpochMetrics, Progress, StepInfo
from bottleneck_transformer_flax.training.run_directory import RunDirectory
from training.linear_runs import setup_of

ROW = {
    "epoch": 1,
    "step": 3,
    "train_loss": 1.2344,
    "train_accuracy": 0.5,
    "images_per_second": 1053.4,
    "input_wait": 0.1,
    "validation_loss": 0.9,
    "validation_accuracy": 0.25,
    "best": True,
}
STEP = StepInfo(
    step=1,
    loss_sum=2469.12,
    correct=1000,
    images=2000,
    gradient_norm=12.3456,
    update_norm=0.000123456,
    learning_rate=0.0123456,
    seconds=2.0,
    input_seconds=0.5,
)
EXPECTED = {
    "loss": "1.235",
    "accuracy": "50.0 %",
    "best validation": "25.0 %, epoch 1",
    "learning rate": "0.0123",
    "gradient norm": "12.3",
    "update norm": "0.000123",
    "images/s": "1,000",
    "MFU": "43.2 %",
    "input wait": "25 %",
}


class Shown:
    """A display on a console that writes to memory."""

    def __init__(self, *, terminal=True, width=100, ideal_step_seconds=None):
        self.file = io.StringIO()
        console = Console(file=self.file, force_terminal=terminal, width=width)
        self.display, self.setup = TrainingDisplay(console), setup_of()
        self.epoch = EpochMetrics(ideal_step_seconds=ideal_step_seconds)

    def start(self, *rows, step=0):
        self.display.on_start(self.setup, RunDirectory(Path("run")), Progress(step, list(rows)))

    def step(self, number, **changes):
        step = STEP._replace(step=number, **changes)
        self.epoch.add(step)
        self.display.on_step(step, self.epoch)

    def picture(self, width=100):
        """The lines of the bar and of the figures, without colours."""
        console = Console(file=io.StringIO(), width=width)
        console.print(self.display._picture())
        return console.file.getvalue().splitlines()

    def figures(self, width=100):
        """Names and values beneath the bar, from "loss  1.235   learning rate  0.0123"."""
        parts = [re.split(r" {2,}", line.strip()) for line in self.picture(width)[1:]]
        return {row[i]: row[i + 1] for row in parts for i in range(0, len(row), 2)}


@pytest.mark.parametrize(("width", "rows"), [(100, 3), (80, 3), (70, 9), (40, 9)])
def test_a_terminal_shows_a_bar_and_the_figures_beneath_it(width, rows):
    shown = Shown(width=width, ideal_step_seconds=0.8642)
    assert shown.display.shows_mfu
    shown.start()
    assert shown.display._live.is_started
    shown.display.on_epoch(ROW)
    for number in (1, 2):
        shown.step(number)
    shown.display.on_stop()
    bar, *beneath = shown.picture(width)
    assert max(map(len, [bar, *beneath])) <= width
    assert bar.startswith("epoch 1/4 ")
    assert len(beneath) == rows
    assert shown.figures(width) == EXPECTED
    written = shown.file.getvalue()
    assert "epoch 1/4  loss 1.234  accuracy 50.0 %" in written
    assert "stopping after this step; press Ctrl-C again" in written
    shown.display.on_end()
    assert not shown.display._live.is_started


def test_compiling_is_no_measure_of_speed_and_each_epoch_is_measured_alone():
    shown = Shown()
    shown.start()
    shown.step(1, seconds=900.0)
    # What is not known is not shown.
    unknown = {"images/s", "MFU", "input wait", "best validation"}
    assert shown.figures().keys() == EXPECTED.keys() - unknown
    shown.step(2)
    shown.step(3, input_seconds=1.5)
    now = shown.figures()
    assert (now["images/s"], now["input wait"]) == ("1,000", "50 %")
    shown.epoch = EpochMetrics()
    shown.step(4, seconds=1.0)
    now = shown.figures()
    assert (now["images/s"], now["input wait"]) == ("2,000", "50 %")
    shown.display.on_end()


def test_the_best_epoch_is_shown_and_may_be_one_before_the_run_was_resumed():
    shown = Shown()
    shown.start(ROW | {"validation_accuracy": 0.5}, ROW | {"epoch": 2, "best": False}, step=6)
    shown.display.on_epoch(ROW | {"epoch": 3, "best": False})
    shown.step(10)
    assert shown.figures()["best validation"] == "50.0 %, epoch 1"
    shown.display.on_epoch(ROW | {"epoch": 4, "validation_accuracy": 0.75})
    shown.step(11)
    assert shown.figures()["best validation"] == "75.0 %, epoch 4"
    shown.display.on_end()


def with_images(setup, count, data="files", num_workers=None):
    """The setup with so many images to train on, in files."""
    labels = np.zeros(count, np.int32)
    train = FolderSource(Path(data), tuple(map(str, range(count))), labels, ("a",))
    inputs = dataclasses.replace(setup.config.input, num_workers=num_workers)
    config = setup.config.replace(data=data, input=inputs)
    return dataclasses.replace(setup, splits=setup.splits._replace(train=train), config=config)


def test_elsewhere_an_epoch_is_a_line_and_waiting_for_images_is_told_once():
    shown = Shown(terminal=False)
    assert not shown.display.shows_mfu
    shown.setup = with_images(shown.setup, 1000)
    shown.start()
    before = len(shown.file.getvalue())
    shown.step(1)
    shown.display.on_evaluation("validation", 1, 2)
    for wait in (0.1, 0.2, 0.43, 0.9):
        shown.display.on_epoch(ROW | {"input_wait": wait})
    shown.display.on_end()
    line = (
        "epoch 1/4  loss 1.234  accuracy 50.0 %  validation loss 0.900  validation accuracy "
        "25.0 %  1,053 images/s"
    )
    *lines, hint, last = shown.file.getvalue()[before:].splitlines()
    assert lines == [line, line, f"{line}  waited 43 % of the time for images"]
    assert last == f"{line}  waited 90 % of the time for images"
    assert hint.startswith("hint    images arrive too slowly: ")


@pytest.mark.parametrize(
    ("data", "count", "num_workers", "helps"),
    [
        ("files", 2000, None, "try --num-workers 4, or pack the images with `botnet data pack`"),
        ("files", 2000, 4, "pack the images with `botnet data pack`"),
        ("packed", 2000, 2, "try --num-workers 4"),
        # All cores read already.
        ("packed", 4000, None, None),
        # So few that starting to read them takes the time.
        ("files", 54, None, None),
    ],
)
def test_only_what_helps_against_waiting_is_advised(
    tmp_path, monkeypatch, data, count, num_workers, helps
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed/dataset.json").write_text(json.dumps({"format": FORMAT}))
    for module in (progress, loader):
        monkeypatch.setattr(module, "usable_cores", lambda: 4)
    hint = list(progress._input_hint(with_images(setup_of(), count, data, num_workers)))
    assert hint == ([] if helps is None else [f"hint    images arrive too slowly: {helps}"])

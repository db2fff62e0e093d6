"""What is seen of a run: the screen of a terminal, and the lines of everything else."""

import io
import json
import re

import numpy as np
import pytest
from rich.console import Console

from bottleneck_transformer_flax.cli.progress import TrainingDisplay
from bottleneck_transformer_flax.data.sources.array_record import FORMAT
from bottleneck_transformer_flax.data.sources.folder import FolderSource
from bottleneck_transformer_flax.errors import CheckpointError
from bottleneck_transformer_flax.training.callbacks import Reporter, RunProgress
from bottleneck_transformer_flax.training.run_directory import RunDirectory
from training.linear_runs import CONFIG, plan_of

ROW = {
    "epoch": 1,
    "step": 3,
    "train_loss": 1.2344,
    "train_accuracy": 0.5,
    "images_per_second": 1053.4,
    "validation_loss": 0.9,
    "validation_accuracy": 0.25,
}
STEP = RunProgress(
    epoch=1,
    step=2,
    loss=1.23456,
    accuracy=0.5,
    images=2000,
    learning_rate=0.0123456,
    gradient_norm=12.3456,
    update_norm=0.000123456,
    seconds=2.0,
    input_seconds=0.5,
    fraction_of_peak=0.4321,
)


def screen(written):
    """The lines that a terminal shows after what was written to it."""
    lines, row, column = [""], 0, 0
    parts = r"\x1b\[(\?25[lh]|\d*A|[0-9;]*m|2K)|(\n|\r)|([^\x1b\n\r]+)"
    for code, move, text in re.findall(parts, written):
        if code == "2K":
            lines[row] = ""
        elif code.endswith("A"):
            row -= int(code[:-1])
        elif move == "\r":
            column = 0
        elif move == "\n":
            # What writes to a terminal through the system's line discipline starts a line anew.
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif text:
            before = lines[row].ljust(column)
            lines[row] = before[:column] + text + before[column + len(text) :]
            column += len(text)
    return [line.rstrip() for line in lines]


class Shown:
    """A display on a console that writes to memory."""

    def __init__(self, run, *, terminal, width=80, config=CONFIG):
        self.file = io.StringIO()
        console = Console(
            file=self.file, force_terminal=terminal, width=width, height=24, legacy_windows=False
        )
        self.display = TrainingDisplay(console)
        self.plan, self.run = plan_of(config), RunDirectory(run)

    def lines(self):
        """What is on the screen; drawn now, and not only a few times a second."""
        if self.display._live.is_started:
            self.display._live.refresh()
        return screen(self.file.getvalue())

    def start(self, step=0):
        self.display.planned(self.plan, self.run, step)


def figures(lines):
    """Names and values of lines such as "loss  1.235   learning rate  0.0123"."""
    found = {}
    for line in lines:
        parts = re.split(r" {2,}", line.strip())
        found |= dict(zip(parts[::2], parts[1::2], strict=True))
    return found


EXPECTED = {
    "loss": "1.235",
    "accuracy": "50.0 %",
    "best test": "25.0 %, epoch 1",
    "learning rate": "0.0123",
    "gradient norm": "12.3",
    "update norm": "0.000123",
    "images/s": "1,000",
    "fraction of peak": "43.2 %",
    "waiting for images": "25 %",
}


@pytest.mark.parametrize(("width", "height"), [(100, 3), (80, 3), (79, 3), (60, 9), (40, 9)])
def test_a_terminal_shows_a_bar_and_the_figures_beneath_it(tmp_path, width, height):
    shown = Shown(tmp_path, terminal=True, width=width)
    with shown.display as display:
        assert isinstance(display, Reporter)
        shown.start()
        display.stepped(STEP._replace(step=1))
        display.stepped(STEP)
        display.finished_epoch(ROW)
        *above, bar = shown.lines()[:-height]
        beneath = shown.lines()[-height:]
        assert max(map(len, [bar, *beneath])) <= width
        assert bar.startswith("epoch 1/4 ")
        assert "left" in bar
        assert figures(beneath) == EXPECTED
        assert above[-1].startswith("epoch 1/4  loss 1.234  accuracy 50.0 %")
    assert [line for line in shown.lines() if line] == above


def test_the_first_step_is_no_measure_of_speed(tmp_path):
    shown = Shown(tmp_path, terminal=True)
    with shown.display as display:
        shown.start()
        display.stepped(STEP._replace(step=1, seconds=900.0))
        display.finished_epoch({**ROW, "step": 1})
        assert "images/s" not in figures(shown.lines()[-3:])
        display.stepped(STEP)
        display.stepped(STEP._replace(step=3, input_seconds=1.5))
        display.finished_epoch({**ROW, "epoch": 2})
        now = figures(shown.lines()[-3:])
        assert (now["images/s"], now["waiting for images"]) == ("1,000", "50 %")
        # Another epoch is measured alone.
        display.stepped(STEP._replace(step=4, epoch=2, seconds=1.0))
        display.finished_epoch({**ROW, "epoch": 3})
        now = figures(shown.lines()[-3:])
        assert (now["images/s"], now["waiting for images"]) == ("2,000", "50 %")


def test_what_is_not_known_is_not_shown(tmp_path):
    shown = Shown(tmp_path, terminal=True)
    with shown.display as display:
        shown.start()
        for step in (1, 2):
            display.stepped(STEP._replace(step=step, fraction_of_peak=None, seconds=0.0))
        row = {name: value for name, value in ROW.items() if not name.startswith("test")}
        display.finished_epoch(row)
        now = figures(shown.lines()[-3:])
    unknown = {"images/s", "fraction of peak", "waiting for images"}
    assert now.keys() == EXPECTED.keys() - unknown
    assert now["best test"] == "not yet"


def best_of(tmp_path, rows, start=0):
    shown = Shown(tmp_path, terminal=True)
    with shown.display as display:
        shown.start(start)
        display.stepped(STEP)
        for row in rows:
            display.finished_epoch({**ROW, **row})
        return figures(shown.lines()[-3:])["best test"]


def test_the_best_epoch_stays(tmp_path):
    rows = [
        {"epoch": 1, "validation_accuracy": 0.5},
        {"epoch": 2, "validation_accuracy": 0.75},
        {"epoch": 3, "validation_accuracy": 0.75},
        {"epoch": 4, "validation_accuracy": 0.5},
    ]
    assert best_of(tmp_path, rows) == "75.0 %, epoch 2"


def test_the_best_epoch_of_a_resumed_run_may_be_an_earlier_one(tmp_path):
    # The third epoch came after the checkpoint, and is made again.
    rows = [
        {"epoch": epoch, "step": 3 * epoch, "validation_accuracy": accuracy}
        for epoch, accuracy in ((1, 0.5), (2, 0.25), (3, 0.9))
    ]
    RunDirectory(tmp_path).write_metrics(rows)
    assert (
        best_of(tmp_path, [{"epoch": 3, "validation_accuracy": 0.25}], start=6) == "50.0 %, epoch 1"
    )


@pytest.mark.parametrize("text", ["{", '{"epoch": 1}\n', "[]\n"])
def test_a_damaged_record_of_epochs_is_told(tmp_path, text):
    RunDirectory(tmp_path).metrics.write_text(text)
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl cannot be read"):
        best_of(tmp_path, [], start=6)


def lines_of(tmp_path, *rows, data=None):
    shown = Shown(tmp_path, terminal=False)
    if data is not None:
        train = FolderSource(tmp_path, (), np.zeros(0, np.int32), ("a",))
        splits = shown.plan.splits._replace(train=train)
        shown.plan = shown.plan._replace(splits=splits, config=shown.plan.config.replace(data=data))
    with shown.display as display:
        shown.start()
        display.stepped(STEP)
        display.evaluating(1, 2)
        before = shown.file.getvalue()
        for row in rows:
            display.finished_epoch({**ROW, **row})
    return shown.file.getvalue().removeprefix(before).splitlines()


def test_elsewhere_an_epoch_is_a_line(tmp_path):
    assert lines_of(tmp_path, {}, {"epoch": 2, "input_wait": 0.2}, {"input_wait": None}) == [
        "epoch 1/4  loss 1.234  accuracy 50.0 %  test loss 0.900  test accuracy 25.0 %  "
        "1,053 images/s",
        "epoch 2/4  loss 1.234  accuracy 50.0 %  test loss 0.900  test accuracy 25.0 %  "
        "1,053 images/s",
        "epoch 1/4  loss 1.234  accuracy 50.0 %  test loss 0.900  test accuracy 25.0 %  "
        "1,053 images/s",
    ]


@pytest.mark.parametrize(
    ("data", "to_be_packed"),
    [(None, False), ("files", True), ("packed", False)],
    ids=["in memory", "files", "packed"],
)
def test_waiting_for_images_is_told_and_what_to_do_about_it_once(
    tmp_path, monkeypatch, data, to_be_packed
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed/dataset.json").write_text(json.dumps({"format": FORMAT}))
    first, hint, second = lines_of(
        tmp_path, {"input_wait": 0.43}, {"epoch": 2, "input_wait": 0.9}, data=data
    )
    assert first.endswith("1,053 images/s  waited 43 % of the time for images")
    assert second.endswith("1,053 images/s  waited 90 % of the time for images")
    assert hint.startswith("hint    images come too slowly")
    assert "--num-workers" in hint
    assert ("botnet data pack" in hint) == to_be_packed

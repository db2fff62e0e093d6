"""``botnet report``: the page of a run, finished or not, with its images or without them."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from bottleneck_transformer_flax.cli import report
from bottleneck_transformer_flax.evaluation.predictions import Predictions
from reference.html_pages import assert_self_contained
from training.tiny import CLASSES, entries, truncated_jpeg


@pytest.fixture(autouse=True)
def run(finished_run):
    return finished_run


@pytest.fixture
def no_pass(monkeypatch):
    """Fails where the images are scored again."""
    monkeypatch.setattr(report, "score", None)


@pytest.fixture
def page_of(call, run):
    """Call the command, and read the page it wrote and the notes it printed."""

    def read(*arguments):
        called = call("report", *arguments)
        assert (called.code, called.out) == (0, f"report  {run / 'report.html'}\n")
        return assert_self_contained((run / "report.html").read_text("utf-8")), called.err

    return read


def path_of(position):
    return f"{CLASSES[position // 3]}/{position % 3}.png"


@pytest.mark.usefixtures("no_pass")
def test_the_newest_run_s_page_shows_what_the_run_found(call, page_of, run, tmp_path):
    page, _ = page_of()
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert page.texts_in("h1") == ["botnet_tiny on data"]
    assert {"validation (val/) accuracy", "best validation (val/) accuracy, epoch 2"} <= set(
        page.texts_in("dt")
    )
    assert f"{100 * evaluation['top1']:.2f} %" in page.texts_in("dd")
    mistakes = Predictions.load(run / "predictions.npz").mistakes(24)
    assert page.texts_in("small") == [path_of(mistake.position) for mistake in mistakes]
    assert page.texts_in("strong") == [
        CLASSES[index] for mistake in mistakes for index in mistake[1:3]
    ]
    # Curves, the confusion matrix, the reliability diagram, and one picture for each mistake.
    assert len(page.of("img")) == 3 + len(mistakes)
    error = f"{100 * evaluation['ece']:.2f} %"
    for name, value in (
        ("validation balanced accuracy", f"{100 * evaluation['balanced_accuracy']:.2f} %"),
        ("validation macro-F1", f"{evaluation['macro_f1']:.4f}"),
        ("validation calibration error (ECE)", error),
    ):
        assert page.texts_in("dd")[page.texts_in("dt").index(name)] == value
    calibration = (
        "temperature 1.250, fitted on the validation images; "
        f"validation calibration error 50.00 % before and {error} after it"
    )
    assert ["calibration", calibration] in page.rows
    for row in evaluation["per_class"]:
        assert [row["class"], str(row["count"]), f"{100 * row['accuracy']:.1f} %", ""] in page.rows
    for fact in (
        ["validation (val/) images", "9"],
        ["input.validation_fraction", "0.1"],
        ["input.eval_crop", "not set"],
    ):
        assert fact in page.rows
    counts = Counter((mistake[1], mistake[2]) for mistake in mistakes)
    pairs = [
        [CLASSES[true], CLASSES[predicted], str(count), f"{100 * count / 3:.1f} %", ""]
        for (true, predicted), count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]
    start = page.rows.index(["class", "taken for", "images", "share of class", ""]) + 1
    assert page.rows[start : start + len(pairs)] == pairs
    out = tmp_path / "new/folder/page.html"
    called = call("report", run, "--out", out, "--count", "1", "--json")
    assert called.json() == {"report": str(out), "notes": []}
    page = assert_self_contained(out.read_text(encoding="utf-8"))
    assert page.texts_in("small") == [path_of(mistakes[0].position)]


@pytest.mark.usefixtures("no_pass")
def test_a_class_that_the_picture_gives_as_a_number_is_named_below_it(page_of, run):
    names = ["ant", "two\nlines", "\N{SIGNWRITING HAND-FIST INDEX}"]
    (run / "pretrained/classes.json").write_text(json.dumps(names))
    assert ["#2", "\N{SIGNWRITING HAND-FIST INDEX}"] in page_of()[0].rows


@pytest.mark.usefixtures("no_pass")
@pytest.mark.parametrize(
    ("moved", "said"),
    [("", "--data"), ("val/ant/0.png", "data holds other images")],
)
def test_without_the_images_that_were_scored_the_page_says_so(page_of, run, moved, said):
    images = run / "../../data" / moved
    images.rename(images.with_name("moved.png"))
    page, told = page_of()
    (note,) = [text for text in page.texts_in("p") if "not shown" in text]
    assert said in note
    assert told == f"note: {note}\n"
    assert page.texts_in("small") == []
    split = "validation (val/)"
    assert {f"Accuracy by class, {split}, worst first", f"Most confused classes, {split}"} < set(
        page.texts_in("h2")
    )
    if not moved:
        assert page_of("--data", "moved.png")[0].texts_in("small")


def test_a_run_that_kept_no_predictions_is_scored_again_and_the_page_says_so(page_of, run):
    (run / "predictions.npz").unlink()
    evaluation = json.loads((run / "evaluation.json").read_text())
    # All that the first commits recorded.
    names = ("top1", "top5", "loss", "count", "per_class")
    evaluation = {name: evaluation[name] for name in names}
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    bad = truncated_jpeg(run / "../../data/val/bee/x.jpg")
    shutil.copy(bad.with_name("0.png"), bad.with_name("9.png"))
    page, told = page_of()
    notes = [text for text in page.texts_in("p") if text in told]
    assert len(notes) == 3
    assert "kept no predictions" in notes[0]
    assert notes[1] == "Images that cannot be read: 1."
    assert "scored on 9 held-out images; there are 10 now" in notes[2]
    assert "bee/x.jpg" in told
    assert "held-out accuracy" in page.texts_in("dt")
    assert page.texts_in("small")


@pytest.mark.parametrize(
    ("epochs", "note"),
    [
        (0, "The run is not finished: 0 of 2 epochs are over."),
        (1, "The run is not finished: 1 of 2 epochs are over."),
        (
            2,
            "All epochs are over, but results are missing: botnet train --resume --run-directory "
            "runs/one writes them.",
        ),
        (None, "The run has no scores, because no images were held out."),
    ],
)
def test_a_run_without_scores_says_why(page_of, run, epochs, note):
    """Its page has the curves so far."""
    rows = (run / "metrics.jsonl").read_text()
    if epochs is None:
        (run / "evaluation.json").unlink()
        rows = rows.replace("validation_accuracy", "unknown")
    else:
        shutil.rmtree(run / "pretrained")
    (run / "metrics.jsonl").write_text("".join(rows.splitlines(keepends=True)[:epochs]))
    page, told = page_of(run)
    assert note in page.texts_in("p")
    assert told == f"note: {note}\n"
    assert len(page.of("img")) == (0 if epochs == 0 else 1)
    assert ["epochs", f"{2 if epochs is None else epochs} of 2"] in page.rows


@pytest.mark.usefixtures("no_pass", "run")
def test_a_page_below_a_file_is_refused(fails):
    assert "data/val/ant/0.png" in fails(1, "report", "--out", "data/val/ant/0.png/page.html")


@pytest.mark.usefixtures("no_pass", "run")
def test_a_page_in_a_new_folder_among_the_images_shows_the_mistakes_each_time(call):
    for _ in range(2):
        called = call("report", "--out", "data/train/page/r.html")
        assert (called.code, called.err) == (0, "")
    assert "Most confident mistakes" in Path("data/train/page/r.html").read_text("utf-8")


@pytest.mark.usefixtures("no_pass")
def test_a_run_that_goes_on_shows_the_scores_of_its_former_end_and_says_so(page_of, run):
    record = (run / "run.json").read_text()
    (run / "run.json").write_text(record.replace('"epochs": 2', '"epochs": 4'))
    page, told = page_of()
    assert told == (
        "note: The run is not finished: 2 of 4 epochs are over. The scores are those of the model "
        "with which it ended before.\n"
    )
    assert "validation (val/) accuracy" in page.texts_in("dt")


@pytest.mark.parametrize(
    ("options", "code", "named"),
    [
        (("--count", "-1"), 2, "count"),
        (("--out", "data"), 1, "data: is a folder"),
        ((), 1, "evaluation.json cannot be read: expected count, loss"),
    ],
)
def test_refusals_leave_the_page_that_was_there(fails, run, options, code, named):
    (run / "report.html").write_text("before")
    (run / "evaluation.json").write_text("{}")
    before = entries(run)
    assert named in fails(code, "report", *options)
    assert entries(run) == before
    assert (run / "report.html").read_text() == "before"

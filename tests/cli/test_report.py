"""``botnet report``: the page of a run, finished or not, with its images or without them."""

import json
import shutil
from collections import Counter

import pytest

from bottleneck_transformer_flax.cli import report
from bottleneck_transformer_flax.evaluation.predictions import Predictions
from reference.html_pages import assert_self_contained
from training.tiny import CLASSES, entries, truncated_jpeg


@pytest.fixture(autouse=True)
def run(finished_run):
    return finished_run


@pytest.fixture
def predictions(run):
    return Predictions.load(run / "predictions.npz")


@pytest.fixture
def no_pass(monkeypatch):
    """Fails where the images are scored again."""
    monkeypatch.setattr(report, "score", None)


def page_of(called, path):
    assert called.code == 0, called
    assert called.out == f"report  {path}\n"
    return assert_self_contained(path.read_text(encoding="utf-8"))


def path_of(position):
    return f"data/val/{CLASSES[position // 3]}/{position % 3}.png"


def test_the_newest_run_s_page_shows_what_the_run_found(call, run, predictions, no_pass):
    page = page_of(call("report"), run / "report.html")
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert page.texts_in("h1") == ["botnet_tiny on data"]
    assert "validation accuracy" in page.texts_in("dt")
    assert f"{100 * evaluation['top1']:.2f} %" in page.texts_in("dd")
    assert ["validation images", "9"] in page.rows
    mistakes = predictions.mistakes(24)
    assert page.texts_in("small") == [path_of(mistake.position) for mistake in mistakes]
    assert page.texts_in("strong") == [
        CLASSES[index] for mistake in mistakes for index in mistake[1:3]
    ]
    # Curves, the confusion matrix, and one picture for each mistake.
    assert len(page.of("img")) == 2 + len(mistakes)
    for row in evaluation["per_class"]:
        assert [row["class"], str(row["count"]), f"{100 * row['accuracy']:.1f} %", ""] in page.rows
    for fact in (["input.validation_fraction", "0.1"], ["input.eval_crop", "not set"]):
        assert fact in page.rows


def test_pairs_are_counted_and_few_mistakes_are_the_most_confident(
    call, run, predictions, tmp_path, no_pass
):
    out = tmp_path / "new/folder/page.html"
    called = call("report", run, "--out", out, "--count", "1", "--json")
    assert called.json() == {"report": str(out), "notes": []}
    page = assert_self_contained(out.read_text(encoding="utf-8"))
    assert page.texts_in("small") == [path_of(predictions.mistakes(1)[0].position)]
    assert not (run / "report.html").exists()
    counts = Counter((mistake[1], mistake[2]) for mistake in predictions.mistakes(24))
    expected = [
        [CLASSES[true], CLASSES[predicted], str(count), f"{100 * count / 3:.1f} %", ""]
        for (true, predicted), count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]
    start = page.rows.index(["class", "taken for", "images", "of the class", ""]) + 1
    assert page.rows[start : start + len(counts)] == expected


@pytest.mark.parametrize(
    ("moved", "said"),
    [("", "--data"), ("val/ant/0.png", "not those that the run was scored on")],
)
def test_without_the_images_that_were_scored_the_page_says_so(call, run, no_pass, moved, said):
    images = run / "../../data" / moved
    images.rename(images.with_name("moved.png"))
    called = call("report")
    page = page_of(called, run / "report.html")
    (note,) = [text for text in page.texts_in("p") if "not shown" in text]
    assert said in note
    assert called.err == f"note: {note}\n"
    assert page.texts_in("small") == []
    assert {"Accuracy by class, worst first", "Most confused classes"} < set(page.texts_in("h2"))
    if not moved:
        page = page_of(call("report", "--data", "moved.png"), run / "report.html")
        assert page.texts_in("small")


def test_a_run_that_kept_no_predictions_is_scored_again_and_the_page_says_so(call, run):
    (run / "predictions.npz").unlink()
    evaluation = json.loads((run / "evaluation.json").read_text())
    del evaluation["split"]
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    bad = truncated_jpeg(run / "../../data/val/bee/x.jpg")
    shutil.copy(bad.with_name("0.png"), bad.with_name("9.png"))
    called = call("report")
    page = page_of(called, run / "report.html")
    notes = [text for text in page.texts_in("p") if text in called.err]
    assert len(notes) == 3
    assert "kept no predictions" in notes[0]
    assert notes[1] == "Images that cannot be read: 1."
    assert "scored on 9 held-out images; there are 10 now" in notes[2]
    assert "bee/x.jpg" in called.err
    assert "held-out accuracy" in page.texts_in("dt")
    assert page.texts_in("small")


@pytest.mark.parametrize(
    ("epochs", "note"),
    [
        (0, "The run is not finished: 0 of 2 epochs are over."),
        (1, "The run is not finished: 1 of 2 epochs are over."),
        (2, "All epochs are over, but results are missing: botnet train --resume writes them."),
        (None, "The run has no scores, because no images were held out."),
    ],
)
def test_a_run_without_scores_says_why(call, fails, run, epochs, note):
    """Its page has the curves so far; a run that is not finished must be named."""
    rows = (run / "metrics.jsonl").read_text()
    if epochs is None:
        (run / "evaluation.json").unlink()
        rows = rows.replace("validation_accuracy", "unknown")
    else:
        shutil.rmtree(run / "pretrained")
        assert "no finished run" in fails(1, "report")
    (run / "metrics.jsonl").write_text("".join(rows.splitlines(keepends=True)[:epochs]))
    called = call("report", run)
    page = page_of(called, run / "report.html")
    assert note in page.texts_in("p")
    assert called.err == f"note: {note}\n"
    assert len(page.of("img")) == (0 if epochs == 0 else 1)
    assert ["epochs", f"{2 if epochs is None else epochs} of 2"] in page.rows
    (run / "metrics.jsonl").unlink()
    assert call("report", run).code == 0


@pytest.mark.parametrize(
    ("options", "code", "named"),
    [
        (("data",), 1, "data is not a run"),
        (("--count", "-1"), 2, "count"),
        (("--out", "data"), 2, "data"),
        (("--out", "data/val/ant/0.png/page.html"), 1, "0.png"),
    ],
)
def test_refusals(fails, run, options, code, named):
    before = entries(run)
    assert named in fails(code, "report", *options)
    assert entries(run) == before


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("metrics.jsonl", "{"),
        ("evaluation.json", "{"),
        ("evaluation.json", "[]"),
        ("run.json", "{"),
        ("predictions.npz", "no archive"),
    ],
)
def test_a_damaged_record_is_told_and_the_page_before_stays(fails, run, file, text):
    (run / "report.html").write_text("before")
    (run / file).write_text(text)
    assert file in fails(1, "report")
    assert (run / "report.html").read_text() == "before"

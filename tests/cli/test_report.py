"""``botnet report``: the page of a run, finished or not, with its images or without them."""

import json
import shutil

import pytest

from bottleneck_transformer_flax import load_pretrained
from bottleneck_transformer_flax.cli import report
from bottleneck_transformer_flax.data.datasets import load_splits
from bottleneck_transformer_flax.decoding import decode_image
from bottleneck_transformer_flax.evaluation.evaluator import Evaluator
from bottleneck_transformer_flax.inference.predictor import Predictor
from reference.html_pages import assert_self_contained
from training.tiny import entries, truncated_jpeg


@pytest.fixture
def kept(run, trained):
    """The predictions that the run kept."""
    model, variables, preprocessing, _ = load_pretrained(run)
    source = load_splits("data").validation
    predictions = Evaluator(model, preprocessing, batch_size=9)(variables, source)
    predictions.save(run / "predictions.npz")
    return run / "predictions.npz"


def page_of(called, path):
    assert called.code == 0, called
    assert called.out == f"report  {path}\n"
    return assert_self_contained(path.read_text(encoding="utf-8"))


def mistakes_by_the_predictor(run, trained):
    """(probability, true class, predicted class, path) of each mistake, most confident first."""
    predictor = Predictor(load_pretrained(run), top_k=1)
    paths = sorted((trained / "data/val").rglob("*.png"))
    rankings = predictor([decode_image(str(path)) for path in paths])
    rows = [
        (probability, path.parent.name, name, str(path.relative_to(trained)))
        for path, [(name, probability)] in zip(paths, rankings, strict=True)
        if name != path.parent.name
    ]
    return sorted(rows, key=lambda row: (-row[0], row[3]))


def test_the_newest_run_s_page_shows_its_figures_and_its_mistakes(
    call, run, trained, kept, monkeypatch
):
    monkeypatch.setattr(report, "score", None)  # What is known is not computed again.
    page = page_of(call("report"), run / "report.html")
    evaluation = json.loads((run / "evaluation.json").read_text())
    (title,) = page.texts_in("h1")
    assert title == "botnet_tiny on data"
    assert f"{100 * evaluation['top1']:.2f} %" in page.texts_in("dd")
    expected = mistakes_by_the_predictor(run, trained)
    assert expected
    assert page.texts_in("small") == [path for *_, path in expected]
    strong = page.texts_in("strong")
    assert list(zip(strong[::2], strong[1::2], strict=True)) == [row[1:3] for row in expected]
    # Two pictures of the run, and one for each mistake.
    assert len(page.of("img")) == 2 + len(expected)
    for row in evaluation["per_class"]:
        assert [row["class"], str(row["count"]), f"{100 * row['accuracy']:.1f} %", ""] in page.rows
    assert ["optimization.learning_rate", "0.001"] in page.rows
    assert ["input.image_size", "[16, 16]"] in page.rows
    assert ["input.eval_crop", "not set"] in page.rows


def test_a_run_that_kept_no_predictions_has_the_same_page_and_a_note(call, run, trained, kept):
    page = page_of(call("report"), run / "report.html")
    kept.unlink()
    again = page_of(call("report", "--batch-size", "4"), run / "report.html")
    (note,) = set(again.texts_in("p")) - set(page.texts_in("p"))
    assert "kept no predictions" in note
    assert again.rows == page.rows
    assert again.texts_in("small") == page.texts_in("small")


def test_json_is_one_line_with_the_page(call, run, kept):
    called = call("report", run, "--json")
    assert called.code == 0, called
    assert called.json() == {"report": str(run / "report.html"), "notes": []}
    assert (run / "report.html").is_file()


def test_pairs_are_counted(call, run, trained, kept):
    page = page_of(call("report", run, "--count", "0"), run / "report.html")
    assert page.texts_in("small") == []
    counts = {}
    for _, true_class, predicted, _ in mistakes_by_the_predictor(run, trained):
        counts[true_class, predicted] = counts.get((true_class, predicted), 0) + 1
    start = page.rows.index(["class", "taken for", "images", "of the class", ""]) + 1
    shown = [tuple(row[:4]) for row in page.rows[start : start + len(counts)]]
    assert sorted(shown) == sorted(
        (*pair, str(count), f"{100 * count / 3:.1f} %") for pair, count in counts.items()
    )
    assert [int(row[2]) for row in shown] == sorted(counts.values(), reverse=True)


def test_few_mistakes_are_the_most_confident(call, run, trained, kept):
    out = trained / "new/folder/page.html"
    page = page_of(call("report", run, "--out", out, "--count", "1"), out)
    assert page.texts_in("small") == [mistakes_by_the_predictor(run, trained)[0][3]]
    assert not (run / "report.html").exists()


def test_without_its_images_the_page_says_so(call, run, trained, kept):
    (trained / "data").rename(trained / "moved")
    called = call("report")
    page = page_of(called, run / "report.html")
    (note,) = [text for text in page.texts_in("p") if "not shown" in text]
    assert "data" in note and "--data" in note
    assert called.err == f"note: {note}\n"
    assert page.texts_in("small") == []
    assert len(page.of("img")) == 2
    assert {"Accuracy by class, worst first", "Most confused classes"} < set(page.texts_in("h2"))
    page = page_of(call("report", "--data", "moved"), run / "report.html")
    assert page.texts_in("small")


def test_other_images_are_not_shown_for_those_that_were_scored(call, run, trained, kept):
    (trained / "data/val/ant/0.png").rename(trained / "data/val/ant/new.png")
    page = page_of(call("report"), run / "report.html")
    assert page.texts_in("small") == []
    assert any("not those that the run was scored on" in text for text in page.texts_in("p"))


def test_images_that_came_later_or_cannot_be_read_are_noted(call, run, trained):
    (run / "predictions.npz").unlink(missing_ok=True)
    bad = truncated_jpeg(trained / "data/val/bee/x.jpg").relative_to(trained)
    called = call("report")
    page = page_of(called, run / "report.html")
    assert "Images that cannot be read: 1." in page.texts_in("p")
    assert str(bad) in called.err
    bad.unlink()
    shutil.copy("data/val/bee/0.png", "data/val/bee/9.png")
    page = page_of(call("report"), run / "report.html")
    assert any("there are 10 now" in text for text in page.texts_in("p"))


def test_classes_may_be_called_anything(call, run, trained):
    odd = '<b>"&'
    for part in ("train", "val"):
        (trained / "data" / part / "bee").rename(trained / "data" / part / odd)
    for path in (run / "pretrained/classes.json", run / "evaluation.json"):
        path.write_text(path.read_text().replace('"bee"', json.dumps(odd)))
    page = page_of(call("report"), run / "report.html")
    assert [row[0] for row in page.rows].count(odd) >= 1
    assert set(page.texts_in("strong")) <= {odd, "ant", "cat"}


def unfinished(run, epochs):
    shutil.rmtree(run / "pretrained")
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:epochs]))


@pytest.mark.parametrize("epochs", [0, 1, 2])
def test_an_unfinished_run_has_its_curves_so_far(call, run, trained, epochs):
    unfinished(run, epochs)
    called = call("report", run)
    page = page_of(called, run / "report.html")
    note = f"The run is not finished: {epochs} of 2 epochs are over."
    if epochs == 2:
        note = "All epochs are over, but results are missing: botnet train --resume writes them."
    assert note in page.texts_in("p")
    assert called.err == f"note: {note}\n"
    assert len(page.of("img")) == min(epochs, 1)
    assert ["epochs", f"{epochs} of 2"] in page.rows
    (trained / run / "metrics.jsonl").unlink()
    assert call("report", run).code == 0


def test_only_a_finished_run_is_taken_by_itself(fails, run, trained):
    unfinished(run, 1)
    assert "no finished run" in fails(1, "report")
    assert not (run / "report.html").exists()


@pytest.mark.parametrize(
    ("options", "code", "named"),
    [
        (("nowhere",), 1, "nowhere is not a run"),
        (("data",), 1, "data is not a run"),
        (("--count", "-1"), 2, "count"),
        (("--count", "many"), 2, "count"),
        (("--batch-size", "0"), 2, "batch_size"),
        (("--num-workers", "-1"), 2, "num_workers"),
        (("--out", "data"), 2, "data"),
        (("--out", "data/val/ant/0.png/page.html"), 1, "0.png"),
        (("--no-such-option",), 2, "no-such-option"),
        (("one", "two"), 2, "two"),
    ],
)
def test_refusals(fails, run, trained, options, code, named):
    before = entries(run)
    assert named in fails(code, "report", *options)
    assert entries(run) == before


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("metrics.jsonl", "{"),
        ("metrics.jsonl", "[]"),
        ("evaluation.json", "{"),
        ("evaluation.json", "[]"),
        ("run.json", "{"),
        ("predictions.npz", "no archive"),
    ],
)
def test_a_damaged_record_is_told(fails, run, trained, file, text):
    (run / file).write_text(text)
    assert file in fails(1, "report")
    assert not (run / "report.html").exists()


def test_the_page_before_stays_when_it_cannot_be_written_anew(call, fails, run, trained):
    page_of(call("report"), run / "report.html")
    before = (run / "report.html").read_bytes()
    (trained / run / "evaluation.json").write_text("{")
    fails(1, "report")
    assert (run / "report.html").read_bytes() == before

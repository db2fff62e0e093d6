"""The whole journey through the command line, and what each command says to bad input."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
<<<<<<< HEAD
from safetensors.numpy import load_file, save_file

from cli.conftest import QUICK
from reference.conversion_arrays import golden_arrays
=======
from safetensors.numpy import load_file

from cli.conftest import QUICK
from conversion.small_timm import NAME, arrays, file
>>>>>>> cli
from training.tiny import assert_same_bits, entries, write_data

__all__ = ["arrays", "file"]

SCORES = {"top1", "top5", "loss", "count", "per_class"}
<<<<<<< HEAD
TIMM_NAME = "eca_botnext26ts_256"
GOLDEN = Path(__file__).parents[1] / f"goldens/conversion/{TIMM_NAME}.npz"
=======
>>>>>>> cli


def interrupt_when_there(file):
    """Press Ctrl-C as soon as a file is there."""

    def wait():
        while not file.is_file():
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=wait, daemon=True).start()


def test_train_stop_resume_evaluate_predict_and_report(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_data(Path("data"))
    options = (*QUICK, "--epochs", "8", "--run-directory", "runs/mine")
    interrupt_when_there(Path("runs/mine/metrics.jsonl"))
    stopped = call("train", "--data", "data", *options)
    assert stopped.code == 1, stopped
    assert "of 16" in stopped.out
    assert "botnet train --resume --run-directory runs/mine" in stopped.out
    assert not Path("runs/mine/pretrained").exists()

    resumed = call("train", "--resume", "--run-directory", "runs/mine", "--json")
    assert resumed.code == 0, resumed
    final = resumed.json()
    assert final.keys() >= SCORES | {"split", "run"}
    assert (final["split"], final["count"], final["run"]) == ("validation", 9, "runs/mine")
    rows = [json.loads(row) for row in Path("runs/mine/metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == list(range(1, 9))
    assert rows[-1]["validation_accuracy"] == pytest.approx(final["top1"])

    # The newest run is what the other commands take, with the images that it validated on.
    evaluated = call("evaluate", "--json")
    assert evaluated.code == 0, evaluated
    assert evaluated.json().keys() >= SCORES | {"checkpoint", "data"}
    assert {key: evaluated.json()[key] for key in SCORES} == {key: final[key] for key in SCORES}

    predicted = call("predict", "runs/mine/example.png", "data/val/bee", "--json")
    assert predicted.code == 0, predicted
    lines = [json.loads(line) for line in predicted.out.splitlines()]
    assert [line["image"] for line in lines][1:] == [f"data/val/bee/{n}.png" for n in range(3)]
    for line in lines:
        assert sum(row["probability"] for row in line["predictions"]) == pytest.approx(1, abs=1e-5)

    reported = call("report", "--json")
    assert reported.code == 0, reported
    assert reported.json()["report"] == "runs/mine/report.html"
    assert entries(Path("runs/mine")) == [
        ".lock",
        "best",
        "checkpoints",
        "confusion.png",
        "curves.png",
        "evaluation.json",
        "example.png",
        "metrics.jsonl",
        "predictions.npz",
        "pretrained",
        "report.html",
        "run.json",
    ]


<<<<<<< HEAD
def test_a_checkpoint_of_timm_is_imported_and_exported_back(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with np.load(GOLDEN) as golden:
        arrays = golden_arrays(json.loads(str(golden["shapes"])), float(golden["gain"]))
    save_file(arrays, "timm.safetensors")
    imported = call("import", "timm.safetensors", "--variant", TIMM_NAME, "--out", "ours", "--json")
=======
def test_a_checkpoint_of_timm_is_imported_and_exported_back(call, arrays, file, monkeypatch):
    monkeypatch.chdir(file.parent)
    imported = call("import", file.name, "--variant", NAME, "--out", "ours", "--json")
>>>>>>> cli
    assert imported.code == 0, imported
    assert (imported.json()["variant"], imported.json()["num_classes"]) == (NAME, 1000)
    exported = call("export", "--checkpoint", "ours", "--out", "back.safetensors", "--json")
    assert exported.code == 0, exported
    assert exported.json()["variant"] == NAME
    assert_same_bits(load_file("back.safetensors"), arrays)


@pytest.mark.parametrize(
    ("code", "arguments", "expected"),
    [
        (1, "train --data nowhere", "nowhere: no such folder"),
        (2, "train --epochs -1", "epochs is -1"),
        (2, "train --epochz 3", "--epochz"),
        (2, "train --variant botnet_t33", "did you mean 'botnet_t3'"),
        (1, "train --resume", "no run to resume in runs/"),
        (1, "evaluate --checkpoint nowhere", "nowhere does not exist"),
        (1, "evaluate --data nowhere", "nowhere"),
        (2, "evaluate --batch-size 0", "batch_size is 0"),
        (2, "predict", "no image was named"),
        (1, "report", "no finished run in runs/"),
        (1, "report nowhere", "nowhere is not a run"),
        (1, "data pack nowhere out", "nowhere: no such folder"),
        (2, "data show --count 0", "count is 0"),
        (2, "data shew", "did you mean 'show'"),
        (2, "variants surplus", "surplus"),
        (1, "import nowhere.pth --variant botnet_s1_50 --out x", "nowhere.pth does not exist"),
        (2, "import", "--out"),
        (1, "export --checkpoint botnet_tiny --out x.safetensors", "botnet_tiny"),
        (2, "share owner/name", "no finished run in runs/"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    fails, tmp_path, monkeypatch, as_users_have_it, code, arguments, expected
):
    monkeypatch.chdir(tmp_path)
    assert expected in fails(code, *arguments.split())
    assert entries(tmp_path) == []

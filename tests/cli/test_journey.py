"""The whole journey through the command line, and what each command says to bad input."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from cli.conftest import QUICK
from training.tiny import entries, write_data

SCORES = {"top1", "top5", "balanced_accuracy", "macro_f1", "loss", "count", "per_class"}


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
    options = (*QUICK, "--epochs", "4", "--run-directory", "runs/mine")
    interrupt_when_there(Path("runs/mine/metrics.jsonl"))
    stopped = call("train", "--data", "data", *options)
    assert stopped.code == 1, stopped
    assert "of 8" in stopped.out
    assert "botnet train --resume --run-directory runs/mine" in stopped.out
    assert not Path("runs/mine/pretrained").exists()

    resumed = call("train", "--resume", "--run-directory", "runs/mine", "--json")
    assert resumed.code == 0, resumed
    final = resumed.json()
    assert final.keys() >= SCORES | {"split", "run"}
    assert (final["split"], final["origin"]) == ("validation", "val/")
    assert (final["count"], final["run"]) == (9, "runs/mine")
    rows = [json.loads(row) for row in Path("runs/mine/metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == list(range(1, 5))
    assert rows[-1]["validation_accuracy"] == pytest.approx(final["top1"])
    assert rows[-1]["validation_origin"] == "val/"

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
        "reliability.png",
        "report.html",
        "run.json",
    ]


@pytest.mark.parametrize(
    ("code", "arguments", "expected"),
    [
        (1, "train --data nowhere", "nowhere: no such folder"),
        (2, "train --epochs -1", "--epochs is -1"),
        (2, "train --image-size 16", "image-size"),
        (2, "train --variant botnet_t33", "did you mean 'botnet_t3'"),
        (1, "train --resume", "no run to resume in runs/"),
        (1, "evaluate --checkpoint nowhere", "nowhere does not exist"),
        (2, "evaluate --batch-size 0", "--batch-size is 0"),
        (1, "evaluate --confusion nowhere/c.png", "its folder nowhere does not exist"),
        (2, "predict", "no image was named"),
        (1, "report", "no finished run in runs/"),
        (1, "report nowhere", "nowhere is not a run"),
        (1, "data pack nowhere out", "nowhere: no such folder"),
        (2, "data pack images", "required"),
        (2, "data show --count 0", "count is 0; expected 1 to 100"),
        (2, "data show --seed -1", "seed is -1; expected an integer in [0, 2**32)"),
        (2, "data show --out sheet.jpg", "sheet.jpg"),
        (2, "data shew", "did you mean 'show'"),
        (2, "variants surplus", "surplus"),
        (2, "import", "--out"),
        (1, "import nowhere.pth --variant botnet_s1_50 --out x", "nowhere.pth does not exist"),
        (1, "import https://huggingface.co/timm/botnet26t --out x", "botnet26t does not exist"),
        (1, "export --checkpoint botnet_tiny --out x.safetensors", "botnet_tiny"),
        (1, "share owner/name", "no finished run in runs/; name what to share"),
        (1, "share owner/name --checkpoint nowhere", "nowhere does not exist"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    fails, tmp_path, monkeypatch, code, arguments, expected
):
    monkeypatch.chdir(tmp_path)
    assert expected in fails(code, *arguments.split())
    assert entries(tmp_path) == []

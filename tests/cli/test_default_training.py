"""What `make train` does, in full."""

import json
import os
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_training_without_arguments_reaches_88_percent(tmp_path):
    command = [sys.executable, "-m", "bottleneck_transformer_flax", "train", "--json"]
    # As users have it: the tests' own flags compile sooner, to slower programs.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["count"] == 1000
    assert result["top1"] >= 0.88

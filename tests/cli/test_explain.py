"""``botnet explain``: a picture, and its numbers."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PHOTO = "data/val/ant/0.png"


def test_it_draws_a_picture_and_gives_its_numbers(call, finished_run):
    called = call("explain", PHOTO)
    assert called.code == 0, called
    assert "written  0-attention.png" in called.out
    with Image.open("0-attention.png") as picture:
        assert min(picture.size) > 400
    found = call("explain", PHOTO, "--out", "a.png", "--at", "0", "1", "1", "0", "--json").json()
    assert [each["position"] for each in found["attention"]] == [[0, 1], [1, 0]]
    for each in found["attention"]:
        for key in ("weights", "content", "relative"):
            np.testing.assert_allclose(np.sum(each[key], axis=(1, 2)), 1, atol=1e-5)
    assert np.sum(found["rollout"]) == pytest.approx(1)
    assert {"predictions", "block", "grad_cam", "relative_height", "relative_width"} <= set(found)
    assert Path("a.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ((PHOTO, "--out", "a.jpg"), 2, "a.jpg is no name of a figure"),
        ((PHOTO, "--at", "0", "9"), 2, "--at is (0, 9), but the grid of c5/block_1 has"),
        (
            (PHOTO, "--block", "c4/block_1"),
            2,
            "'c4/block_1'; expected one of c5/block_1",
        ),
        (("none.png",), 1, "none.png: cannot be read as an image"),
    ],
)
def test_what_cannot_be_drawn_is_told(fails, finished_run, arguments, code, told):
    assert told in fails(code, "explain", *arguments)

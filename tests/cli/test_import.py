"""``botnet import`` and ``export``: what they print, write and refuse."""

from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save, save_file

from bottleneck_transformer_flax import load_pretrained
from conversion.small_timm import NAME, REPOSITORY, arrays, config, file
from reference.timm_networks import randomize, timm
from training.tiny import colour_images, entries

__all__ = ["arrays", "config", "file"]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_repository_becomes_a_directory_for_every_command(call, hub, arrays, config):
    hub.add(REPOSITORY, {"config.json": config, "model.safetensors": save(arrays)})
    called = call("import", REPOSITORY, "--out", "eca")
    assert called.code == 0, called
    model, source, published, licence, written, following = called.out.splitlines()
    assert model.startswith(f"model    {NAME}, ")
    assert model.endswith(" parameters, 1000 classes, 256 × 256 pixels")
    assert source == f"from     {REPOSITORY}"
    assert published == "         published: ImageNet top-1 79.262 %, top-5 94.600 %"
    assert (licence, written) == ("licence  apache-2.0", "written  eca")
    assert following.endswith("predict --checkpoint eca IMAGE")
    assert REPOSITORY in Path("eca/README.md").read_text(encoding="utf-8")

    Image.fromarray(colour_images(1)[0]).save("a.png")
    predicted = call("predict", "a.png", "--checkpoint", "eca", "--image-size", "64", "96")
    assert predicted.code == 0, predicted
    assert "relative height interpolated linearly from 16 to 4 positions" in predicted.err


def test_a_file_with_class_names(call, fails, file):
    names = [f"name {index}" for index in range(1000)]
    Path("names.txt").write_text("\ufeff" + "\n".join(names) + "\n", encoding="utf-8")
    options = ("--variant", NAME, "--classes", "names.txt", "--json")
    summary = call("import", "eca.safetensors", "--out", "eca", *options).json()
    assert isinstance(summary.pop("parameters"), int)
    assert summary == {
        "source": "eca.safetensors",
        "variant": NAME,
        "image_size": [256, 256],
        "num_classes": 1000,
        "licence": None,
        "published_top1": None,
        "published_top5": None,
        "directory": str(Path("eca").resolve()),
    }
    assert list(load_pretrained("eca").classes) == names
    for content, told in (
        (b"one\n\nthree", "has empty lines or a name twice"),
        (b"one\none", "has empty lines or a name twice"),
        (b"\xff\xfe\x00", "cannot be read as UTF-8 text"),
    ):
        Path("names.txt").write_bytes(content)
        assert told in fails(1, "import", "eca.safetensors", "--out", "new", *options)
    assert not Path("new").exists()


def test_a_folder_that_holds_something_else_is_refused_before_anything_is_read(fails):
    Path("taken").mkdir()
    Path("taken/thesis.tex").touch()
    told = fails(1, "import", "nowhere.pth", "--variant", NAME, "--out", "taken")
    assert "taken holds other files (thesis.tex)" in told
    assert entries(Path("taken")) == ["thesis.tex"]


@pytest.mark.slow
def test_the_printed_line_loads_an_export_into_timm(call):
    """timm rounds the grids of 90 × 86 pixels down where it builds them, up where it computes."""
    network = timm.create_model(NAME, img_size=(96, 96))
    randomize(network, seed=0)
    state = network.state_dict()
    arrays = {name: value.numpy() for name, value in state.items() if "num_batches" not in name}
    save_file(arrays, "eca.safetensors")
    size = ("--image-size", "90", "86")
    assert call("import", "eca.safetensors", "--variant", NAME, *size, "--out", "eca").code == 0
    called = call("export", "--checkpoint", "eca", "--format", "timm", "--out", "back.safetensors")
    (line,) = (line for line in called.out.splitlines() if line.startswith("in timm: "))
    assert "img_size=(96, 96)" in line
    loaded = eval(line.removeprefix("in timm: "), {"timm": timm}).eval()
    for name, value in arrays.items():
        np.testing.assert_array_equal(loaded.state_dict()[name].numpy(), value)
    model, variables, _, _ = load_pretrained("eca")
    images = np.random.default_rng(0).normal(size=(1, 90, 86, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = loaded(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    logits = jax.jit(model.apply)(variables, images)
    np.testing.assert_allclose(logits, theirs, rtol=0, atol=1e-4)
    exported = call("export", "--checkpoint", "eca", "--out", "b.safetensors", "--json").json()
    assert exported == {
        "checkpoint": "eca",
        "format": "timm",
        "variant": NAME,
        "num_classes": 1000,
        "image_size": [90, 86],
        "img_size": [96, 96],
        "file": "b.safetensors",
    }

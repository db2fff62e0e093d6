"""``botnet import`` and ``export``: from files and from the hub, there and back, and what fails."""

import json
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save

from bottleneck_transformer_flax import load_pretrained
from bottleneck_transformer_flax.conversion import convert as foreign_sources
from bottleneck_transformer_flax.conversion.timm_repository import read_timm_config
from bottleneck_transformer_flax.data import imagenet
from reference.foreign_arrays import foreign_arrays
from reference.timm_models import timm, timm_model
from training.tiny import colour_images, entries

NAME = "eca_botnext26ts_256"
REPOSITORY = f"timm/{NAME}.c1_in1k"
FOLDER = Path(__file__).parents[1] / "goldens/foreign"
FILES = ["README.md", "classes.json", "config.json", "model.safetensors", "preprocessing.json"]


@pytest.fixture(scope="module")
def arrays():
    with np.load(FOLDER / f"{NAME}.npz") as golden:
        return foreign_arrays(json.loads(str(golden["shapes"])), float(golden["gain"]))


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """config.json as timm writes it."""
    path = tmp_path_factory.mktemp("timm") / "config.json"
    timm.models._hub.save_config_for_hf(timm_model(NAME), path)
    return path.read_bytes()


@pytest.fixture
def file(arrays, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("eca.safetensors").write_bytes(save(arrays))
    return "eca.safetensors"


@pytest.fixture
def repository(hub, arrays, config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickled = {"pytorch_model.bin": b"not fetched where there are safetensors"}
    hub.add(REPOSITORY, {"config.json": config, "model.safetensors": save(arrays)} | pickled)
    return REPOSITORY


def nothing_written(*allowed):
    """Nothing but these in the current folder, and the fixtures' own."""
    return set(entries(Path())) <= {"eca.safetensors", "hub_home", *allowed}


def test_from_the_hub_to_a_directory_with_all_that_is_known(call, repository, hub):
    called = call("import", repository, "--out", "eca")
    assert called.code == 0, called
    assert f"{NAME}, 10,593,301 parameters, 1000 classes, 256 × 256 pixels" in called.out
    assert "ImageNet top-1 79.262 %, top-5 94.600 %" in called.out
    assert "licence  apache-2.0" in called.out
    assert entries(Path("eca")) == FILES
    assert not any("pytorch_model.bin" in request for request in hub.asked)
    loaded = load_pretrained("eca")
    assert loaded.classes == imagenet.class_names()
    assert (loaded.preprocessing.crop, loaded.preprocessing.interpolation) == (0.95, "bicubic")
    card = huggingface_hub.ModelCard(Path("eca/README.md").read_text(encoding="utf-8"))
    assert card.data.license == "apache-2.0"
    assert card.data.base_model == REPOSITORY
    results = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert results == {"accuracy": pytest.approx(0.79262), "top_5_accuracy": pytest.approx(0.946)}
    assert REPOSITORY in card.text

    # Another revision may hold other weights.
    hub.repositories[repository].tags["v1"] = hub.repositories[repository].commits[0].name
    tagged = call("import", f"{repository}@v1", "--out", "tagged", "--json").json()
    assert (tagged["published_top1"], tagged["licence"]) == (None, "apache-2.0")

    # What was fetched once needs no network any more.
    hub.stop()
    again = call("import", repository, "--out", "again", "--json")
    assert again.json()["published_top1"] == pytest.approx(0.79262)
    assert again.json()["variant"] == NAME
    assert (
        Path("again/model.safetensors").read_bytes() == Path("eca/model.safetensors").read_bytes()
    )


def test_what_is_uploaded_meanwhile_is_not_mixed_in(call, repository, hub, arrays, monkeypatch):
    def read_slowly(path, name):
        hub.repositories[repository].commit("other weights", {"model.safetensors": b"other"})
        return read_timm_config(path, name)

    monkeypatch.setattr(foreign_sources, "read_timm_config", read_slowly)
    called = call("import", repository, "--out", "eca", "--json")
    assert called.code == 0, called
    files = [request for request in hub.asked if "/resolve/" in request]
    assert len({request.split("/resolve/")[1].split("/")[0] for request in files}) == 1
    assert any(request.endswith("model.safetensors") for request in files)


def test_predict_and_evaluate_with_it(call, repository):
    for synset in ("n01440764", "n01443537"):
        Path("images", synset).mkdir(parents=True)
        Image.fromarray(colour_images(1, size=(40, 50))[0]).save(f"images/{synset}/a.png")
    assert call("import", repository, "--out", "eca").code == 0
    called = call("predict", "images", "--checkpoint", "eca", "--image-size", "64", "96", "--json")
    assert called.code == 0, called
    assert len(called.out.splitlines()) == 2
    assert (
        "relative height interpolated linearly from 16 to 4 positions in c4/block_2" in called.err
    )
    # ImageNet's folders are called by synsets, the classes by names.
    scored = call(
        *("evaluate", "--checkpoint", "eca", "--data", "images", "--image-size", "64", "96"),
        "--json",
    )
    assert scored.code == 0, scored
    assert scored.json()["count"] == 2
    counts = {row["class"]: row["count"] for row in scored.json()["per_class"] if row["count"]}
    assert counts == {"tench": 1, "goldfish": 1}


def test_from_a_file(call, file):
    called = call("import", file, "--variant", NAME, "--out", "eca", "--json")
    assert called.code == 0, called
    assert called.json() == {
        "source": file,
        "variant": NAME,
        "parameters": 10_593_301,
        "image_size": [256, 256],
        "num_classes": 1000,
        "licence": None,
        "published_top1": None,
        "published_top5": None,
        "directory": str(Path("eca").resolve()),
    }
    card = Path("eca/README.md").read_text(encoding="utf-8")
    for part in ("`eca.safetensors` (SHA-256", "79.262 %", "94.6 %", "apache-2.0", "timm"):
        assert part in card


def test_there_and_back_and_into_timm(call, file, arrays, tmp_path):
    assert call("import", file, "--variant", NAME, "--out", "eca").code == 0
    called = call("export", "--checkpoint", "eca", "--format", "timm", "--out", "back.safetensors")
    assert called.code == 0, called
    back = load_file("back.safetensors")
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)
    # The command that it prints, which loads strictly, does what it says.
    (line,) = (line for line in called.out.splitlines() if line.startswith("in timm: "))
    network = eval(line.removeprefix("in timm: "), {"timm": timm})
    for name, tensor in network.state_dict().items():
        if "num_batches" not in name:
            np.testing.assert_array_equal(tensor.numpy(), arrays[name])
    as_json = call("export", "--checkpoint", "eca", "--out", "b.safetensors", "--json").json()
    assert (as_json["variant"], as_json["file"]) == (NAME, "b.safetensors")


def test_a_size_between_timms_goes_back_too(call, file):
    """timm rounds the grids of 250 pixels down where it builds them, and up where it computes."""
    size = ("--image-size", "250", "246")
    assert call("import", file, "--variant", NAME, *size, "--out", "eca").code == 0
    called = call("export", "--checkpoint", "eca", "--out", "back.safetensors")
    (line,) = (line for line in called.out.splitlines() if line.startswith("in timm: "))
    assert "img_size=(256, 256)" in line
    network = eval(line.removeprefix("in timm: "), {"timm": timm}).eval()
    model, variables, _, _ = load_pretrained("eca")
    images = np.random.default_rng(0).normal(size=(1, 250, 246, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = network(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    np.testing.assert_allclose(model.apply(variables, images), theirs, rtol=0, atol=1e-4)


def test_an_export_does_not_go_over_the_model(call, fails, file):
    assert call("import", file, "--variant", NAME, "--out", "eca").code == 0
    before = Path("eca/model.safetensors").read_bytes()
    told = fails(1, "export", "--checkpoint", "eca", "--out", "eca/model.safetensors")
    assert "would be in a pretrained directory" in told
    assert Path("eca/model.safetensors").read_bytes() == before


def test_the_licence_of_the_card(call, hub, arrays, config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = json.loads(config)
    values["pretrained_cfg"].pop("license", None)
    files = {"config.json": json.dumps(values).encode(), "model.safetensors": save(arrays)}
    cards = {
        "plain": (b"---\nlicense: mit\n---\n# A model\n", "mit"),
        "none": (b"# A model\n", None),
        "broken": (b"---\nlicense: [\n---\n# A model\n", None),
    }
    for name, (card, licence) in cards.items():
        hub.add(f"someone/{name}", files | {"README.md": card})
        called = call("import", f"someone/{name}", "--out", name, "--json")
        assert called.code == 0, called
        assert called.json()["licence"] == licence


def test_repositories_that_contradict_themselves(fails, hub, arrays, config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = json.loads(config)
    hub.add("someone/no-weights", {"config.json": config})
    told = fails(1, "import", "someone/no-weights", "--out", "new")
    assert "has neither model.safetensors nor pytorch_model.bin" in told
    for name, changes, expected in (
        ("few", {"num_classes": 7}, "says 7 classes, but its weights have 1000 outputs"),
        ("two", {"label_names": ["a", "b"]}, "names 2 classes, and says that there are 1000"),
    ):
        content = json.dumps(values | changes).encode()
        hub.add(f"someone/{name}", {"config.json": content, "model.safetensors": save(arrays)})
        assert expected in fails(1, "import", f"someone/{name}", "--out", "new")
    address = "https://huggingface.co/timm/botnet26t_256.c1_in1k"
    assert "is an address" in fails(1, "import", address, "--out", "new")
    assert nothing_written()


def test_a_fine_tuned_one_of_timms_own_hub_form(call, hub, arrays, config, tmp_path, monkeypatch):
    """Someone's own classes, a pickled file, another mean: the repository says it all."""
    monkeypatch.chdir(tmp_path)
    values = json.loads(config)
    values |= {"label_names": ["ant", "bee"], "num_classes": 2}
    values["pretrained_cfg"] |= {"mean": [0.5, 0.5, 0.5], "license": "cc-by-4.0"}
    head = {
        "head.fc.weight": np.ones((2, 2048), np.float32),
        "head.fc.bias": np.zeros(2, np.float32),
    }
    tensors = {name: torch.from_numpy(array) for name, array in (arrays | head).items()}
    torch.save(tensors, "weights.bin")
    hub.add(
        "someone/insects",
        {
            "config.json": json.dumps(values).encode(),
            "pytorch_model.bin": Path("weights.bin").read_bytes(),
        },
    )
    called = call("import", "someone/insects", "--out", "insects")
    assert called.code == 0, called
    assert "published" not in called.out
    assert "licence  cc-by-4.0" in called.out
    assert "trained by timm" not in Path("insects/README.md").read_text(encoding="utf-8")
    loaded = load_pretrained("insects")
    assert loaded.classes == ("ant", "bee")
    assert loaded.preprocessing.mean == (0.5, 0.5, 0.5)
    assert "| licence | cc-by-4.0 |" in Path("insects/README.md").read_text(encoding="utf-8")


def test_class_names_from_a_file(call, fails, file, tmp_path):
    Path("names.txt").write_text("\n".join(f"name {i}" for i in range(1000)), encoding="utf-8")
    called = call(
        *("import", file, "--variant", NAME, "--out", "eca", "--classes", "names.txt"), "--json"
    )
    assert called.code == 0, called
    assert load_pretrained("eca").classes[999] == "name 999"
    for content, code, told in (
        (b"one\ntwo", 2, "there are 2 class names for the 1000 outputs"),
        (b"\xff\xfe\x00", 1, "is no text in UTF-8"),
    ):
        Path("names.txt").write_bytes(content)
        arguments = ("import", file, "--variant", NAME, "--out", "new", "--classes", "names.txt")
        assert told in fails(code, *arguments)
    assert not Path("new").exists()


def test_what_is_no_source(fails, file):
    assert "no_file.pth does not exist" in fails(
        1, "import", "no_file.pth", "--variant", NAME, "--out", "new"
    )
    assert "name it with --variant" in fails(2, "import", file, "--out", "new")
    assert "did you mean" in fails(2, "import", file, "--variant", "eca_botnext", "--out", "new")
    assert "no other project's botnet_t3 is known" in fails(
        2, "import", file, "--variant", "botnet_t3", "--out", "new"
    )
    assert nothing_written()


def test_damaged_files(fails, file, tmp_path):
    whole = Path(file).read_bytes()
    Path(file).write_bytes(whole[: len(whole) // 2])
    assert "cannot be read" in fails(1, "import", file, "--variant", NAME, "--out", "new")

    class Code:
        def __reduce__(self):
            return Path.mkdir, (tmp_path / "executed",)

    torch.save({"state_dict": {}, "code": Code()}, "evil.pth")
    assert "holds code" in fails(1, "import", "evil.pth", "--variant", NAME, "--out", "new")
    assert nothing_written("evil.pth")


def test_another_architecture_in_a_file(fails, file):
    told = fails(1, "import", file, "--variant", "botnet26t_256", "--out", "new")
    assert f"is no botnet26t_256 of timm, but has the names of {NAME} of timm" in told
    assert nothing_written()


def test_repositories_that_cannot_be_imported(call, fails, repository, hub, config):
    assert "no such repository" in fails(1, "import", "timm/botnet27t", "--out", "new")
    values = json.loads(config) | {"architecture": "resnet50"}
    hub.add("timm/resnet50.a1_in1k", {"config.json": json.dumps(values).encode()})
    assert "is a resnet50, which this package does not have" in fails(
        1, "import", "timm/resnet50.a1_in1k", "--out", "new"
    )
    hub.add("someone/bert", {"config.json": b'{"model_type": "bert"}'})
    assert "describes no model of timm's" in fails(1, "import", "someone/bert", "--out", "new")
    hub.add("someone/data", {"README.md": b"#"})
    assert "lacks config.json" in fails(1, "import", "someone/data", "--out", "new")
    assert "leave out --variant" in fails(2, "import", repository, "--variant", NAME, "--out", "n")
    hub.stop()
    assert "cannot be reached" in fails(1, "import", "timm/never-seen", "--out", "new")
    assert nothing_written()


def test_a_folder_named_as_the_owner(call, fails, repository):
    Path("timm").mkdir()
    told = fails(1, "import", repository, "--out", "new")
    assert "with @main where there is a folder timm" in told
    assert call("import", f"{repository}@main", "--out", "new").code == 0


def test_where_it_cannot_be_written(fails, file):
    Path("taken").mkdir()
    Path("taken/thesis.tex").touch()
    told = fails(1, "import", file, "--variant", NAME, "--out", "taken")
    assert "taken holds other files (thesis.tex)" in told
    assert entries(Path("taken")) == ["thesis.tex"]


def test_what_cannot_be_exported(fails, file):
    assert "is botnet_tiny, which timm does not have" in fails(
        1, "export", "--checkpoint", "botnet_tiny", "--out", "a.safetensors"
    )
    assert "expected a pretrained directory" in fails(
        1, "export", "--checkpoint", "nowhere", "--out", "a.safetensors"
    )
    assert nothing_written()

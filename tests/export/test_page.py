"""The page in a real browser: the same probabilities, and everything that a user does with it."""

import base64
import io
import shutil

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import sync_playwright

from bottleneck_transformer_flax.augmentation.image import EvaluationTransform
from bottleneck_transformer_flax.conversion.loading import load_pretrained
from bottleneck_transformer_flax.decoding import DecodedImage
from bottleneck_transformer_flax.export import page as page_export
from bottleneck_transformer_flax.export.page import _text, write_page
from bottleneck_transformer_flax.export.parity import SAMPLES, sample_images
from bottleneck_transformer_flax.inference.predictor import Predictor
from bottleneck_transformer_flax.preprocessing import Preprocessing

PHONE = {"width": 390, "height": 800}
STATUS = "document.getElementById('status').textContent"


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        path = shutil.which("chromium")
        assert path is not None, "install the package chromium"
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "model.html"
    opened, parity = write_page(load_pretrained("botnet_tiny"), path, title="A <b>model</b> & more")
    assert (opened, parity.batches) == (path, 6)
    return path


@pytest.fixture
def opened(browser, file):
    page = browser.new_page()
    errors = []
    page.on("pageerror", lambda error: errors.append(error))
    open_page(page, file)
    yield page
    assert not errors
    page.close()


def open_page(page, file):
    page.goto(file.as_uri())
    page.wait_for_selector("html[data-ready]", timeout=60_000)


def bars(page):
    return {
        item.query_selector(".name").text_content(): float(item.get_attribute("data-probability"))
        for item in page.query_selector_all("#bars li")
    }


def wait_for(page, text):
    page.wait_for_function(f"{STATUS}.startsWith({text!r})", timeout=60_000)


def test_samples_have_the_probabilities_of_the_predictor(opened):
    predictions = Predictor("botnet_tiny")(sample_images())
    for index, (name, prediction) in enumerate(zip(SAMPLES, predictions, strict=True)):
        opened.locator("#samples button").nth(index).click()
        wait_for(opened, f"{name.removesuffix('.jpg')}: classified")
        found = bars(opened)
        assert list(found) == [label for label, _ in prediction.ranking]
        for label, probability in prediction.ranking:
            assert found[label] == pytest.approx(probability, abs=1e-4)
    assert opened.title() == "A <b>model</b> & more"


def test_dropping_pasting_choosing_pointing_and_moving(opened, tmp_path):
    content = sample_images()[0]
    encoded = base64.b64encode(content).decode()
    make_event = """([kind, text, name, type]) => {
        const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes], name, { type }));
        const options = { bubbles: true, cancelable: true };
        dispatchEvent(kind === "drop"
            ? new DragEvent("drop", { ...options, dataTransfer: transfer })
            : new ClipboardEvent("paste", { ...options, clipboardData: transfer }));
    }"""
    for kind in ("drop", "paste"):
        opened.evaluate(make_event, [kind, encoded, f"{kind}.jpg", "image/jpeg"])
        wait_for(opened, f"{kind}.jpg: classified")
    text = base64.b64encode(b"no image").decode()
    opened.evaluate(make_event, ["drop", text, "notes.txt", "text/plain"])
    wait_for(opened, "notes.txt cannot be read as an image; choose")
    (tmp_path / "chosen.jpg").write_bytes(content)
    opened.set_input_files("#file", tmp_path / "chosen.jpg")
    wait_for(opened, "chosen.jpg: classified")

    def head():
        return opened.evaluate("document.querySelector('#heads canvas').toDataURL()")

    photo = opened.locator("#photo")
    box = photo.bounding_box()
    seen = {head()}
    opened.mouse.move(box["x"] + 3, box["y"] + 3)
    assert photo.get_attribute("aria-label") == "the photo; position 0, 0"
    seen.add(head())
    photo.focus()
    for key, place in (("ArrowRight", "0, 1"), ("ArrowDown", "1, 1"), ("ArrowLeft", "1, 0")):
        opened.keyboard.press(key)
        assert photo.get_attribute("aria-label") == f"the photo; position {place}"
        seen.add(head())
    opened.keyboard.press("ArrowLeft")
    assert photo.get_attribute("aria-label") == "the photo; position 1, 0"
    assert len(seen) == 5


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_light_and_dark(browser, file, scheme):
    page = browser.new_page(viewport=PHONE, color_scheme=scheme)
    open_page(page, file)
    page.locator("#samples button").first.click()
    wait_for(page, "cat: classified")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, dark[4:-1].split(","))) < 200) == (scheme == "dark")
    page.close()


def test_a_large_model_becomes_a_folder_that_opens_too(browser, tmp_path, monkeypatch):
    monkeypatch.setattr(page_export, "LARGEST_PAGE_BYTES", 100_000)
    monkeypatch.setattr(page_export, "_PART_BYTES", 400_000)
    opened, _ = write_page(load_pretrained("botnet_tiny"), tmp_path / "model.html", title="large")
    assert opened == tmp_path / "model/index.html"
    names = sorted(entry.name for entry in opened.parent.iterdir())
    assert names[0] == "index.html"
    assert names[1:] == [f"weights-{index}.js" for index in range(len(names) - 1)]
    assert len(names) > 2
    page = browser.new_page()
    open_page(page, opened)
    page.locator("#samples button").first.click()
    wait_for(page, "cat: classified")
    page.close()


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_resampling_is_pillows_to_the_bit(browser, interpolation):
    page = browser.new_page()
    page.add_script_tag(content=_text("pillow.js"))
    random = np.random.default_rng(len(interpolation))
    for _ in range(25):
        width, height, out_width, out_height = random.integers(1, 60, 4).tolist()
        crop = float(random.choice([0.6, 0.875, 0.95, 1.0]))
        pixels = random.integers(256, size=(height, width, 3), dtype=np.uint8)
        preprocessing = Preprocessing(
            size=(out_height, out_width), crop=crop, interpolation=interpolation
        )
        image = {"width": width, "height": height, "data": pixels.reshape(-1).tolist()}
        found = page.evaluate(
            """([image, preprocessing]) => {
                image.data = Uint8ClampedArray.from(image.data);
                return [...preprocess(image, preprocessing).data];
            }""",
            [image, preprocessing.to_json()],
        )
        transform = EvaluationTransform(preprocessing)
        expected = transform(DecodedImage(Image.fromarray(pixels)))
        np.testing.assert_array_equal(np.reshape(found, expected.shape), expected)
    page.close()


def test_the_samples_are_photographs_with_a_size():
    for content in sample_images():
        with Image.open(io.BytesIO(content)) as image:
            assert min(image.size) >= 200

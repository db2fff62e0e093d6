"""A web page that classifies in the browser, with no server and nothing sent anywhere.

It holds the model in ONNX, onnxruntime-web and all of its own code, and opens from a file.
"""

import base64
import gzip
import html
import json
import re
import tempfile
from importlib import resources
from pathlib import Path

from bottleneck_transformer_flax.checkpoints.pretrained import Pretrained
from bottleneck_transformer_flax.errors import ExportError
from bottleneck_transformer_flax.export.functions import Outputs, attention_blocks
from bottleneck_transformer_flax.export.onnx import write_onnx
from bottleneck_transformer_flax.export.parity import SAMPLES, Parity, sample_images
from bottleneck_transformer_flax.files import atomic_directory, write_text

LARGEST_PAGE_BYTES = 30_000_000
"""Above this size of the model, the page is a folder: browsers are slow to parse one large file."""
_PART_BYTES = 8_000_000
"""Size of the model's parts in a folder, as text."""
_INDEX = "index.html"


def write_page(
    pretrained: Pretrained,
    path: Path,
    *,
    title: str,
    variant: str | None = None,
    origin: str | None = None,
    licence: str | None = None,
) -> tuple[Path, Parity]:
    """Write a page, whose model gives the results of ``apply``, or nothing at all.

    Args:
        pretrained: the model.
        path: the ``.html`` file; for a large model its name without ``.html`` is a folder.
        title: the page's title.
        variant: as for ``write_onnx``, and so are the others.
        origin: see there.
        licence: see there.

    Returns:
        The file to open, and how far its model's results are from those of ``apply``.

    Raises:
        ExportError: when something else is in the way, or as ``write_onnx``.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        described = {"variant": variant, "origin": origin, "licence": licence}
        parity = write_onnx(pretrained, file, outputs=Outputs(attention=True), **described)
        model = file.read_bytes()
    weights = _gzip_text(model)
    values = _values(pretrained, title, described)
    if len(model) <= LARGEST_PAGE_BYTES:
        write_text(path, _filled(values, [_part("model", weights)]))
        return path, parity
    directory = path.with_suffix("")
    if directory.exists() and not (directory / _INDEX).is_file():
        raise ExportError(f"{directory} is in the way; choose another --out")
    with atomic_directory(directory) as beside:
        names = []
        for index, start in enumerate(range(0, len(weights), _PART_BYTES)):
            names.append(f"weights-{index}.js")
            text = json.dumps(weights[start : start + _PART_BYTES])
            script = f"((globalThis.botnetParts ??= {{}}).model ??= []).push({text});\n"
            (beside / names[-1]).write_text(script, encoding="utf-8")
        scripts = [f'<script src="{name}"></script>' for name in names]
        (beside / _INDEX).write_text(_filled(values, scripts), encoding="utf-8")
    return directory / _INDEX, parity


def _values(pretrained: Pretrained, title: str, described: dict[str, str | None]) -> dict[str, str]:
    """What the template's placeholders stand for, but for the model."""
    height, width = pretrained.preprocessing.size
    names = {"variant": "model", "origin": "from", "licence": "licence"}
    about = [f"{names[key]} {value}" for key, value in described.items() if value is not None]
    samples = [
        {"name": Path(name).stem, "source": f"data:image/jpeg;base64,{_base64(content)}"}
        for name, content in zip(SAMPLES, sample_images(), strict=True)
    ]
    description = {
        "classes": pretrained.classes,
        "preprocessing": pretrained.preprocessing.to_json(),
        "blocks": attention_blocks(pretrained.model),
        "samples": samples,
    }
    return {
        "title": html.escape(title),
        "summary": html.escape(
            f"Tells {len(pretrained.classes):,} classes apart, from {height} × {width} pixels. "
            "Everything happens on this device: no photo is sent anywhere."
        ),
        "about": html.escape(
            "; ".join([*about, "made with bottleneck-transformer-flax and onnxruntime-web"])
        ),
        # Nothing in a script may look like its end.
        "description": json.dumps(description, ensure_ascii=False).replace("</", "<\\/"),
        "css": _text("page.css"),
        "pillow": _text("pillow.js"),
        "engine": _text("local_engine.js"),
        "page": _text("page.js"),
    }


def _filled(values: dict[str, str], model: list[str]) -> str:
    """The page, with the model as scripts."""
    runtime = resources.files(__package__) / "onnxruntime_web"
    parts = [
        *model,
        _part("wasm", _base64((runtime / "ort.wasm.gz").read_bytes())),
        f'<script type="module">\n{(runtime / "ort.js").read_text(encoding="utf-8")}\n</script>',
    ]
    filling = values | {"parts": "\n".join(parts)}
    return re.sub(r"\{\{(\w+)\}\}", lambda found: filling[found[1]], _text("index.html"))


def _part(name: str, text: str) -> str:
    return f'<script type="text/plain" data-part="{name}">{text}</script>'


def _gzip_text(content: bytes) -> str:
    # Without a time, so that the same model gives the same page.
    return _base64(gzip.compress(content, mtime=0))


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _text(name: str) -> str:
    return (resources.files(__package__) / "page" / name).read_text(encoding="utf-8")

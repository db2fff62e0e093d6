"""Small images as files, for the tests of formats that hold many of them."""

import io
import json

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

from bottleneck_transformer_flax.data.sources.folder import FolderSource


def image_bytes(number, kind="PNG"):
    """An image of 5 × 4 pixels or so, of which each is another."""
    pixels = np.random.default_rng(number).integers(0, 256, (4 + number % 3, 5, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def write_images(root, counts):
    """A folder per class; each file is another image. Returns what is in the files by name."""
    contents = {}
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            kind = ("PNG", "JPEG")[index % 2]
            file = f"{name}/{index:02}.{kind.lower()}"
            contents[file] = image_bytes(len(contents) + len(root.name), kind)
            (root / file).write_bytes(contents[file])
    return contents


def write_parquet(
    file, images, labels, *, image="image", label="label", names=("ant", "bee", "cat")
):
    """As the hub has it, in row groups of four."""
    columns = {image: [{"bytes": content, "path": "a.png"} for content in images], label: labels}
    table = pyarrow.table(columns)
    if names is not None:
        record = {"info": {"features": {label: {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(record)})
    file.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, file, row_group_size=4)


def numbered_source(root, count, size=(4, 4), bad=()):
    """Images "00.png" and so on, the red value one more than the number; bad ones are no images."""
    names = tuple(f"{number:02}.png" for number in range(count))
    for number, name in enumerate(names):
        if number in bad:
            (root / name).write_text("no image")
        else:
            Image.new("RGB", size[::-1], (number + 1, 0, 0)).save(root / name)
    return FolderSource(root, names, np.arange(count, dtype=np.int32), names)

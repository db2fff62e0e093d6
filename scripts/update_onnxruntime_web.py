"""Fetch onnxruntime-web from npm and write what the exported page needs of it.

    python scripts/update_onnxruntime_web.py 1.30.0

Writes ort.js, its module without exports (it sets ``globalThis.ort``), and ort.wasm.gz, its plain
WebAssembly build, into src/bottleneck_transformer_flax/export/onnxruntime_web/.
"""

import gzip
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGE = "onnxruntime-web"
TARGET = Path(__file__).parent.parent / "src/bottleneck_transformer_flax/export/onnxruntime_web"
MODULE, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"


def main() -> None:
    (version,) = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", f"{PACKAGE}@{version}"]
        subprocess.run(command, cwd=folder, check=True)
        (archive,) = Path(folder).glob("*.tgz")
        with tarfile.open(archive) as members:

            def read(name: str) -> bytes:
                member = members.extractfile(f"package/{name}")
                assert member is not None
                return member.read()

            module, wasm = read(f"dist/{MODULE}").decode(), read(f"dist/{WASM}")
    TARGET.mkdir(exist_ok=True)
    (TARGET / "ort.js").write_text(as_script(module, version), encoding="utf-8")
    (TARGET / "ort.wasm.gz").write_bytes(gzip.compress(wasm, 9, mtime=0))


def as_script(module: str, version: str) -> str:
    """The module's code, with its exports as properties of ``globalThis.ort``."""
    module = re.sub(r"//# sourceMappingURL=.*", "", module)
    match = re.search(r"export\s*\{([^{}]*)\};?\s*$", module)
    assert match is not None, "the module no longer ends with its exports"
    names = [re.split(r"\s+as\s+", name.strip()) for name in match[1].split(",")]
    properties = ",".join(f"{json_name(each[-1])}:{each[0]}" for each in names)
    code = module[: match.start()] + f"globalThis.ort={{{properties}}};\n"
    assert "</script" not in code.lower()
    return f"/* {PACKAGE} {version}, (c) Microsoft, MIT License; see NOTICE. */\n{code}"


def json_name(name: str) -> str:
    return f'"{name}"'


if __name__ == "__main__":
    main()

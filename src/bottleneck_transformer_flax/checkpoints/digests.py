"""What the files in the folders of a checkpoint should hold: written with them, looked at again
before they are read."""

import hashlib
import json
from pathlib import Path

DIGESTS_FILE = "digests.json"


def write_digests(folder: Path) -> None:
    """Write down the SHA-256 of every file in the folders of a checkpoint.

    Files beside these folders are orbax's, which goes on writing them, and can do without.
    """
    digests = {name: _digest(folder / name) for name in _files(folder)}
    (folder / DIGESTS_FILE).write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")


def find_damage(folder: Path) -> str | None:
    """What of a folder is not as it was written, in words; None where all is."""
    record = folder / DIGESTS_FILE
    if not record.exists():
        return f"{record.name} is missing"
    try:
        expected = json.loads(record.read_text(encoding="utf-8"))
        missing = sorted(set(expected) - set(_files(folder)))
        if missing:
            return f"{missing[0]} is missing"
        for name, digest in expected.items():
            if _digest(folder / name) != digest:
                return f"{name} is not what was written"
    except (ValueError, AttributeError, OSError) as error:
        return f"{record.name} or what it lists cannot be read: {error}"
    return None


def _files(folder: Path) -> list[str]:
    files = (path for path in folder.glob("*/**/*") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in files)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

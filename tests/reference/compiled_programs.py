"""Where programs that tests compiled are kept, for other tests, other workers and the next run."""

from pathlib import Path

import pytest


def compiled_folder(config: pytest.Config) -> Path:
    """Beside what else pytest keeps; ``pytest --cache-clear`` empties it."""
    folder = config.rootpath / ".pytest_cache" / "d" / "compiled"
    folder.mkdir(parents=True, exist_ok=True)
    return folder

"""Pretrained directories on the Hugging Face hub: fetched into its cache, and shared there.

What huggingface_hub is told by its environment holds here too: HF_TOKEN, HF_HOME, HF_ENDPOINT,
HF_HUB_OFFLINE. No jax, and huggingface_hub only when something is fetched or shared.
"""

import contextlib
import logging
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from bottleneck_transformer_flax.checkpoints.hub_failures import is_transport_failure, reason
from bottleneck_transformer_flax.checkpoints.locations import (
    CARD,
    CLASSES,
    CONFIG,
    PREPROCESSING,
    WEIGHTS,
    find_pretrained,
)
from bottleneck_transformer_flax.errors import CheckpointError

_log = logging.getLogger(__name__)
_PART = r"\w(?:[\w.-]{0,94}\w)?"
_REPOSITORY = re.compile(rf"({_PART}/{_PART})(?:@(\w[\w.-]*))?", re.ASCII)


def is_repository(source: str) -> bool:
    """Whether a text has the form of a hub repository: "owner/name" or "owner/name@revision".

    A path can have that form too; who asks looks on the disk first.
    """
    found = _REPOSITORY.fullmatch(source)
    if found is None:
        return False
    name = found[1]
    return "--" not in name and ".." not in name and not name.endswith(".git")


def means_repository(source: str) -> bool:
    """Whether a source means a hub repository, and no path that has the same form.

    "owner/name" beside a folder "owner" is taken for a path, and most likely a mistyped one;
    "owner/name@main" means the hub there too.
    """
    path = Path(source)
    likely_path = path.parent.is_dir() and "@" not in source
    return is_repository(source) and not path.exists() and not likely_path


def download_repository(
    repository: str, files: Sequence[str], *, required: Sequence[str] = ()
) -> Path:
    """Bring files of a hub repository into the hub's own cache.

    What the cache holds already is not fetched again. Without a network the cache serves.

    Args:
        repository: "owner/name", or "owner/name@revision" for a branch, a tag or a commit.
        files: names, or patterns such as "*.json"; those that the repository lacks are passed over.
        required: names that it must have.

    Returns:
        The folder of this version in the cache; to be read only.

    Raises:
        CheckpointError: when the repository cannot be had, lacks a file that is required, or has
            none of the files.
    """
    name, revision = _parse(repository)
    _require_library()
    from huggingface_hub import snapshot_download

    with _quietly(), _failures_of(repository, "downloaded"):
        try:
            folder = snapshot_download(name, revision=revision, allow_patterns=list(files))
        except Exception as error:
            # huggingface_hub turns to its cache itself when it cannot connect, but not behind a
            # proxy that refuses, nor when the connection breaks off.
            cached = _cached(name, revision, files) if is_transport_failure(error) else None
            if cached is None:
                raise
            folder = cached
    _check_files(repository, Path(folder), files, required)
    return Path(folder)


def at_commit(repository: str, folder: Path) -> str:
    """The name of a repository at the commit that ``download_repository`` brought."""
    return f"{_parse(repository)[0]}@{folder.name}"


def card_licence(folder: Path) -> str | None:
    """The licence that the card in a folder states, by the hub's name for it."""
    if not (folder / CARD).is_file():
        return None
    from huggingface_hub import metadata_load

    try:
        licence = (metadata_load(folder / CARD) or {}).get("license")
    except Exception:
        # What its reader of YAML stumbles over has no base class in common with the rest.
        return None
    return licence if isinstance(licence, str) else None


def upload_pretrained(
    directory: Path, repository: str, *, private: bool = False, message: str | None = None
) -> str:
    """Share a pretrained directory on the hub, in one commit; the repository is made if need be.

    Args:
        directory: a pretrained directory, or a run's directory.
        repository: "owner/name", the owner being the user who is logged in or an organization.
        private: keep it from others. Where a public repository is there already, nothing is sent.
        message: what the commit says.

    Returns:
        The address of the repository's page.

    Raises:
        CheckpointError: when the directory lacks a file, nobody is logged in, writing is not
            permitted, or the hub cannot be reached.
    """
    name, revision = _parse(repository)
    if revision is not None:
        raise CheckpointError(
            f"{repository} names a revision, but an upload goes to the main branch; name {name}"
        )
    folder = find_pretrained(directory)
    needed = (CONFIG, WEIGHTS, PREPROCESSING, CLASSES)
    if missing := [file for file in needed if not (folder / file).is_file()]:
        raise CheckpointError(
            f"{folder} lacks {', '.join(missing)}; expected the folder that save_pretrained or a "
            "finished run wrote"
        )
    files = [file for file in (*needed, CARD) if (folder / file).is_file()]
    _require_library()
    from huggingface_hub import CommitOperationAdd, HfApi

    with _quietly(), _failures_of(name, "uploaded"):
        hub = HfApi(token=True)
        # None and not False: an organization may have settled that what is new is private.
        is_new = not hub.repo_exists(name)
        url = hub.create_repo(name, private=private or None, exist_ok=True)
        # The hub ignores the wish where the repository is there already.
        if private and not hub.model_info(name).private:
            raise CheckpointError(
                f"{name} is on the hub already and public, nothing was uploaded; make it private "
                f"in its settings at {url}/settings, or choose another name"
            )
        try:
            hub.create_commit(
                name,
                operations=[CommitOperationAdd(file, folder / file) for file in files],
                commit_message=message or "Upload a Bottleneck Transformer",
            )
        except Exception:
            if is_new:
                _log.warning("%s is on the hub now, and holds nothing yet", name)
            raise
    return str(url)


def _parse(repository: str) -> tuple[str, str | None]:
    """A repository's name and revision."""
    found = _REPOSITORY.fullmatch(repository)
    if found is None or not is_repository(repository):
        raise CheckpointError(
            f"{repository!r} is not the name of a hub repository; expected owner/name or "
            "owner/name@revision, of letters, digits, '-', '_' and '.'"
        )
    return found[1], found[2]


def _require_library() -> None:
    try:
        import huggingface_hub  # noqa: F401
    except ImportError as error:
        raise CheckpointError(
            f"huggingface_hub, which the hub needs, cannot be imported ({error}); install the "
            "package's 'hub' extra: pip install 'bottleneck-transformer-flax[hub]'"
        ) from error


def _cached(name: str, revision: str | None, files: Sequence[str]) -> str | None:
    """The folder in the cache, if it holds all that is asked for."""
    from huggingface_hub import errors, snapshot_download

    try:
        return snapshot_download(
            name, revision=revision, allow_patterns=list(files), local_files_only=True
        )
    except errors.LocalEntryNotFoundError:
        return None


def _check_files(
    repository: str, folder: Path, files: Sequence[str], required: Sequence[str]
) -> None:
    there = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
    missing = [name for name in required if name not in there]
    if missing or not any(fnmatch(name, pattern) for name in there for pattern in files):
        raise CheckpointError(
            f"{repository} is on the hub but lacks {', '.join(missing or files)}; expected a "
            "repository that holds a model of the kind that is asked for"
        )


@contextlib.contextmanager
def _failures_of(repository: str, participle: str) -> Iterator[None]:
    """Turn what huggingface_hub raises into one line."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        # What it, its HTTP library and its storage library raise has no base class in common.
        raise CheckpointError(
            f"{repository} cannot be {participle}: "
            + reason(error, repository, uploading=participle == "uploaded")
        ) from error


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep huggingface_hub from warning at length of what an error says in one line.

    Its bars stay, but on a terminal alone. Who has set how much it says is not overruled.
    """
    from huggingface_hub import utils

    verbosity = utils.logging.get_verbosity()
    on_terminal = sys.stderr is not None and sys.stderr.isatty()
    hide_bars = not on_terminal and not utils.are_progress_bars_disabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        if verbosity == logging.WARNING:
            utils.logging.set_verbosity(logging.ERROR)
        if hide_bars:
            utils.disable_progress_bars()
        try:
            yield
        finally:
            utils.logging.set_verbosity(verbosity)
            if hide_bars:
                utils.enable_progress_bars()

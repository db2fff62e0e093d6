"""Download and upload of pretrained directories on the Hugging Face hub.

huggingface_hub's environment variables hold here too: HF_TOKEN, HF_HOME, HF_ENDPOINT,
HF_HUB_OFFLINE. Imports no jax, and huggingface_hub only to download or upload.
"""

import contextlib
import logging
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from bottleneck_transformer_flax.checkpoints.hub_errors import explain, is_transport_error
from bottleneck_transformer_flax.checkpoints.pretrained_files import (
    FILES,
    REQUIRED,
    find_pretrained,
)
from bottleneck_transformer_flax.errors import CheckpointError, ConfigError, reraise

_log = logging.getLogger(__name__)
_PART = r"\w(?:[\w.-]{0,94}\w)?"
_REPOSITORY = re.compile(rf"{_PART}/{_PART}(@\w[\w.-]*)?", re.ASCII)


def is_repository(source: str) -> bool:
    """Whether a text has the form of a hub repository, "owner/name" or "owner/name@revision".

    A path may have that form too: see ``means_repository``.
    """
    name = source.partition("@")[0]
    is_name = "--" not in name and ".." not in name and not name.endswith(".git")
    return is_name and _REPOSITORY.fullmatch(source) is not None


def means_repository(source: str) -> bool:
    """Whether a source means a hub repository rather than a path of the same form.

    "owner/name" beside a folder "owner" is read as a path, most likely a mistyped one;
    "owner/name@main" means the hub even there.
    """
    path = Path(source)
    likely_path = path.parent.is_dir() and "@" not in source
    return is_repository(source) and not path.exists() and not likely_path


def download_repository(
    repository: str, files: Sequence[str], *, required: Sequence[str] = ()
) -> Path:
    """Download a repository's files into the hub's own cache, unless they are there already.

    Without a network, what the cache holds is used.

    Args:
        repository: "owner/name", or "owner/name@revision" for a branch, a tag or a commit.
        files: names of files; any that the repository lacks are skipped.
        required: names of files that the repository must have.

    Returns:
        Folder of this version in the cache; it must not be written to.

    Raises:
        ConfigError: when this is no name of a repository.
        CheckpointError: when the download fails, or the repository lacks a required file or has
            none of the files.
    """
    name, revision = _parse(repository)
    with _hub_errors(repository, uploading=False):
        from huggingface_hub import snapshot_download

        download = partial(snapshot_download, name, revision=revision, allow_patterns=list(files))
        try:
            folder = Path(download())
        except Exception as error:
            if not is_transport_error(error):
                raise
            # huggingface_hub turns to its cache when it cannot connect, but not behind a proxy that
            # refuses, nor when the connection breaks off.
            folder = Path(download(local_files_only=True))
    missing = [name for name in required if not (folder / name).is_file()]
    if missing or not any((folder / name).is_file() for name in files):
        raise CheckpointError(
            f"{repository} is on the hub but lacks {', '.join(missing or files)}; expected the "
            "repository of a model"
        )
    return folder


def at_commit(repository: str, folder: Path) -> str:
    """Name of a repository, pinned to the commit that ``download_repository`` downloaded."""
    return f"{_parse(repository)[0]}@{folder.name}"


def upload_pretrained(
    directory: Path, repository: str, *, private: bool = False, message: str | None = None
) -> str:
    """Share a pretrained directory on the hub in one commit, creating the repository if needed.

    Args:
        directory: pretrained directory or run directory.
        repository: "owner/name", the owner being the user logged in or an organization.
        private: hide it from others; nothing is uploaded to an existing public repository.
        message: commit message.

    Returns:
        Address of the repository's page.

    Raises:
        ConfigError: when this is no name of a repository, or the name of a revision.
        CheckpointError: when the directory lacks a file, nobody is logged in, writing is not
            permitted, or the hub cannot be reached.
    """
    name, revision = _parse(repository)
    if revision is not None:
        raise ConfigError(
            f"{repository} names a revision, but an upload goes to the main branch; name {name}"
        )
    folder = _complete_directory(directory)
    with _hub_errors(name, uploading=True):
        from huggingface_hub import HfApi

        hub = HfApi(token=True)
        is_new = not hub.repo_exists(name)
        # None, not False: an organization may have decided that new repositories are private.
        url = hub.create_repo(name, private=private or None, exist_ok=True)
        # The hub ignores the option for a repository that is already there.
        if private and not hub.model_info(name).private:
            raise CheckpointError(
                f"{name} is on the hub already and public, nothing was uploaded; make it private "
                f"in its settings at {url}/settings, or choose another name"
            )
        try:
            hub.upload_folder(
                repo_id=name,
                folder_path=folder,
                allow_patterns=list(FILES),
                commit_message=message or "Upload a Bottleneck Transformer",
            )
        except Exception:
            if is_new:
                _log.warning("%s has been created on the hub, but is still empty", name)
            raise
    return str(url)


def upload_revision(folder: Path, repository: str, revision: str, *, message: str) -> None:
    """Upload a folder's files to a branch of a repository, made from its main branch if need be.

    Raises:
        CheckpointError: when writing is not permitted, or the hub cannot be reached.
    """
    with _hub_errors(repository, uploading=True):
        from huggingface_hub import HfApi

        hub = HfApi(token=True)
        hub.create_branch(repository, branch=revision, exist_ok=True)
        hub.upload_folder(
            repo_id=repository, folder_path=folder, revision=revision, commit_message=message
        )


def _complete_directory(directory: Path) -> Path:
    """Find the pretrained directory to share, and check that no file is missing."""
    folder = find_pretrained(directory)
    if missing := [name for name in REQUIRED if not (folder / name).is_file()]:
        raise CheckpointError(
            f"{folder} lacks {', '.join(missing)}; expected the folder that save_pretrained or a "
            "finished run wrote"
        )
    return folder


def _parse(repository: str) -> tuple[str, str | None]:
    """Name and revision of a repository."""
    if not is_repository(repository):
        raise ConfigError(
            f"{repository!r} is not the name of a hub repository; expected owner/name or "
            "owner/name@revision, of letters, digits, '-', '_' and '.'"
        )
    name, _, revision = repository.partition("@")
    return name, revision or None


@contextlib.contextmanager
def _hub_errors(repository: str, *, uploading: bool) -> Iterator[None]:
    """Raise huggingface_hub's errors as ours, in one line, and hide its longer warnings."""
    failure = f"{repository} cannot be {'uploaded' if uploading else 'downloaded'}"
    remedy = "install the extra 'hub': pip install 'bottleneck-transformer-flax[hub]'"
    with reraise(ImportError, CheckpointError, failure, remedy=remedy):
        import huggingface_hub  # noqa: F401
    try:
        with _quietly():
            yield
    except CheckpointError:
        raise
    except Exception as error:
        # The errors of huggingface_hub, its HTTP library and its storage library share no base.
        why = explain(error, repository, uploading=uploading)
        raise CheckpointError(f"{failure}: {why}") from error


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Hide huggingface_hub's warnings, and its progress bars unless stderr is a terminal.

    A verbosity that the user has set stays.
    """
    from huggingface_hub import utils

    verbosity = utils.logging.get_verbosity()
    on_terminal = sys.stderr is not None and sys.stderr.isatty()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        if verbosity == logging.WARNING:
            utils.logging.set_verbosity(logging.ERROR)
        try:
            with contextlib.nullcontext() if on_terminal else utils.disable_progress_bars():
                yield
        finally:
            utils.logging.set_verbosity(verbosity)

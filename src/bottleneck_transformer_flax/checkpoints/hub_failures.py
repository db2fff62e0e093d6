"""Why huggingface_hub failed, in one line that says what to do."""

import errno
import json
from collections.abc import Iterator
from typing import Any

_LONGEST = 200
_UNREACHED = {"ConnectError", "ConnectTimeout", "ProxyError", "UnsupportedProtocol"}


def reason(error: Exception, repository: str, *, uploading: bool) -> str:
    """What went wrong, and the remedy.

    Args:
        error: what huggingface_hub raised; often what matters is further down its chain of causes.
        repository: "owner/name", perhaps with "@revision".
        uploading: whether something was to be written; otherwise read.
    """
    from huggingface_hub import constants, errors

    cache = constants.HF_HUB_CACHE
    nor_cached = ""
    if isinstance(error, errors.LocalEntryNotFoundError):
        nor_cached = f", and the cache {cache} does not hold all of it"
    for cause in _chain(error):
        if _is_full_disk(cause) and not uploading:
            return (
                f"there is no space left for the cache {cache}; make room, or set HF_HOME to a "
                "folder on another disk"
            )
        if isinstance(cause, errors.LocalTokenNotFoundError):
            return "nobody is logged in; log in with `hf auth login`, or set HF_TOKEN"
        if isinstance(cause, errors.OfflineModeIsEnabled):
            return f"HF_HUB_OFFLINE forbids the network{nor_cached}; unset HF_HUB_OFFLINE"
        if isinstance(cause, errors.BadRequestError):
            # What it is raised from tells what was refused.
            return _line(error)
        if isinstance(cause, errors.HfHubHTTPError):
            return _answer(cause, repository, uploading, nor_cached)
        if is_transport_failure(cause):
            where = f"the hub at {constants.ENDPOINT}"
            if _names(cause) & _UNREACHED:
                return (
                    f"{where} cannot be reached ({_line(cause)}){nor_cached}; check the network "
                    "and try again"
                )
            return f"the connection to {where} broke off ({_line(cause)}); try again"
        if isinstance(cause, json.JSONDecodeError):
            return (
                f"what answers at {constants.ENDPOINT} is not the hub; check the network and "
                "HF_ENDPOINT"
            )
    if isinstance(error, OSError) and error.errno is not None:
        return _line(error)
    return f"{_line(error)}; try again"


def is_transport_failure(error: BaseException) -> bool:
    """Whether the network failed, not the hub.

    By the name of the class: which HTTP library huggingface_hub uses depends on its version.
    """
    return "TransportError" in _names(error)


def _answer(error: Any, repository: str, uploading: bool, nor_cached: str) -> str:
    """What the hub's answer, an HfHubHTTPError, means."""
    from huggingface_hub import constants, errors

    status, said = error.response.status_code, _line(error.server_message or error)
    name, _, revision = repository.partition("@")
    if isinstance(error, errors.GatedRepoError):
        return (
            f"its owner grants access on request; ask for it at {constants.ENDPOINT}/{name}, "
            "then log in with `hf auth login`"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"it has no branch, tag or commit {revision or constants.DEFAULT_REVISION!r}"
    if status == 401 and (uploading or "credentials" in said):
        return (
            f"the hub does not accept the token ({said}); log in anew with `hf auth login`, or "
            "set another HF_TOKEN"
        )
    if isinstance(error, errors.RepositoryNotFoundError) or status == 401:
        return (
            "the hub has no such repository, or it is private; check the name, or log in with "
            "`hf auth login`"
        )
    if status == 403:
        access = "write to" if uploading else "read"
        return (
            f"the hub does not permit it ({said}); log in with `hf auth login` and a token that "
            f"may {access} it"
        )
    if status == 429 or status >= 500:
        return f"the hub answered with {status} ({said}){nor_cached}; try again later"
    return f"the hub answered with {status} ({said})"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, what caused it, what caused that, and on."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        seen.append(cause)
        yield cause
        cause = cause.__cause__ or cause.__context__


def _names(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def _is_full_disk(error: BaseException) -> bool:
    # Its storage library tells it in words alone.
    numbers = (errno.ENOSPC, errno.EDQUOT)
    known = isinstance(error, OSError) and error.errno in numbers
    return known or "No space left on device" in str(error)


def _line(said: object) -> str:
    """An error or a text in one line that is not too long."""
    if isinstance(said, OSError) and said.strerror and said.filename is not None:
        return f"{said.filename}: {said.strerror}"
    line = " ".join(str(said).split()).rstrip(".") or type(said).__name__
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"

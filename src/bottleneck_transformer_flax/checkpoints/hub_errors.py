"""Why huggingface_hub failed, in one line that says what to do."""

import errno
import json
from collections.abc import Iterator
from typing import Any

_LONGEST = 200


def explain(error: Exception, repository: str, *, uploading: bool) -> str:
    """Cause and remedy of a failure.

    Args:
        error: what huggingface_hub raised; the real cause may be further down its chain.
        repository: "owner/name", perhaps with "@revision".
        uploading: whether the repository was to be written rather than read.
    """
    from huggingface_hub import constants, errors

    cache, endpoint = constants.HF_HUB_CACHE, constants.ENDPOINT
    not_cached = ""
    if isinstance(error, errors.LocalEntryNotFoundError):
        not_cached = f", and the cache {cache} does not hold all of it"
    for cause in _chain(error):
        if _is_full_disk(cause):
            return (
                f"there is no space left for the cache {cache}; free some, or set HF_HOME to a "
                "folder on another disk"
            )
        if isinstance(cause, errors.LocalTokenNotFoundError):
            return "nobody is logged in; log in with `hf auth login`, or set HF_TOKEN"
        if isinstance(cause, errors.OfflineModeIsEnabled):
            return f"HF_HUB_OFFLINE forbids the network{not_cached}; unset HF_HUB_OFFLINE"
        if isinstance(cause, errors.BadRequestError):
            # The outer error says what was refused.
            return _line(error)
        if isinstance(cause, errors.HfHubHTTPError):
            return _explain_answer(cause, repository, uploading, not_cached)
        if is_transport_error(cause):
            return (
                f"the hub at {endpoint} cannot be reached ({_line(cause)}){not_cached}; check the "
                "network and try again"
            )
        if isinstance(cause, json.JSONDecodeError):
            return f"{endpoint} does not answer as the hub; check the network and HF_ENDPOINT"
    return f"{_line(error)}; try again"


def is_transport_error(error: BaseException) -> bool:
    """Whether the network failed rather than the hub."""
    # By name, because the HTTP library depends on the version of huggingface_hub.
    return any(kind.__name__ == "TransportError" for kind in type(error).__mro__)


def _explain_answer(error: Any, repository: str, uploading: bool, not_cached: str) -> str:
    """Cause and remedy of an HfHubHTTPError, by the status that the hub answered with."""
    from huggingface_hub import constants, errors

    status, said = error.response.status_code, _line(error.server_message or error)
    name, _, revision = repository.partition("@")
    if isinstance(error, errors.GatedRepoError):
        return (
            f"its owner grants access on request; request it at {constants.ENDPOINT}/{name}, then "
            "log in with `hf auth login`"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return (
            f"it has no branch, tag or commit {revision or constants.DEFAULT_REVISION!r}; choose "
            f"one from {constants.ENDPOINT}/{name}/tree/main"
        )
    if status == 401 and (uploading or "credentials" in said):
        return (
            f"the hub does not accept the token ({said}); log in again with `hf auth login`, or "
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
    later = "; try again later" if status == 429 or status >= 500 else ""
    return f"the hub answered with {status} ({said}){not_cached}{later}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, its cause, the cause of that, and so on."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__


def _is_full_disk(error: BaseException) -> bool:
    # The storage library says so only in words.
    numbers = (errno.ENOSPC, errno.EDQUOT)
    known = isinstance(error, OSError) and error.errno in numbers
    return known or "No space left on device" in str(error)


def _line(said: object) -> str:
    """Write an error or a text in one line, shortened."""
    if isinstance(said, OSError) and said.strerror and said.filename is not None:
        return f"{said.filename}: {said.strerror}"
    line = " ".join(str(said).split()).rstrip(".") or type(said).__name__
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"

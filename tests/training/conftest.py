"""The shared fixtures, for this folder."""

from collections.abc import Iterator

import jaxtyping
import pytest

from training.tiny import compiled_once, small_variant

__all__ = ["compiled_once", "small_variant"]


@pytest.fixture
def as_users_have_it() -> Iterator[None]:
    """The package without the type checks that only tests switch on."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)

"""Fixtures for the models' tests."""

from collections.abc import Iterator

import jaxtyping
import pytest


@pytest.fixture
def as_users_have_it() -> Iterator[None]:
    """The package without the type checks that only tests switch on.

    A user's wrong value must be told in the package's own words, so it has to get that far.
    """
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)

"""The benchmarks' command line, called in this process."""

from typing import NamedTuple

import pytest

from benchmarks.__main__ import main
from bottleneck_transformer_flax.models import variants


class Called(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def call(capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    # A study adds its networks to the variants.
    known = dict(variants.VARIANTS)

    def run(*arguments):
        capfd.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as exit_:
            code = exit_.code
        return Called(code, *capfd.readouterr())

    yield run
    variants.VARIANTS.clear()
    variants.VARIANTS.update(known)

"""Strict settings for every test: types and shapes checked, promotion explicit, two CPU devices."""

import ctypes
import gc
import logging
import os
import sys
from pathlib import Path

# Compiling takes most of the tests' time, and each program runs only a few times. XLA's own passes
# are as users have them; LLVM's are off, and so are fusion emitters, which compile twice as long.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0 "
    "--xla_cpu_use_fusion_emitters=false",
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Users may forbid implicit promotion, which hides mistakes.
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["JAX_NUMPY_DTYPE_PROMOTION"] = "strict"
# Tests, the commands they start and the next run share compiled programs, apart from the user's.
# `pytest --cache-clear` removes them.
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "true"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(
    Path(__file__).parent.parent / ".pytest_cache" / "d" / "compiled"
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"

from collections.abc import Iterator

import jaxtyping
import pytest
from jaxtyping import install_import_hook

install_import_hook("bottleneck_transformer_flax", "beartype.beartype")

from bottleneck_transformer_flax import cli  # noqa: E402
from bottleneck_transformer_flax.cli.startup import empty_if_large  # noqa: E402

# A worker runs many tests and must not keep the memory that the largest of them freed.
cli.keep_freed_memory = lambda: None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-goldens", action="store_true", help="write tests/goldens anew, then read the diff"
    )


def pytest_sessionstart(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput"):
        empty_if_large(Path(os.environ["JAX_COMPILATION_CACHE_DIR"]), 2**30)


def pytest_collection_finish() -> None:
    """Spare the garbage collector what imports made: it took a seventh of the tests' time."""
    gc.freeze()
    gc.set_threshold(100_000)


@pytest.fixture(scope="module", autouse=True)
def programs_of_one_module() -> Iterator[None]:
    """Drop the compiled programs of a module after its last test, and give their memory back."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
    gc.collect()
    # Only glibc has it: without, a worker grows to 2.2 GB, with it to 1.7.
    getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)(0)


@pytest.fixture
def update_goldens(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-goldens"))


@pytest.fixture(autouse=True)
def fresh_logger() -> None:
    """The package's logger as it is before a command sets it up, whatever test ran before."""
    logger = logging.getLogger("bottleneck_transformer_flax")
    logger.handlers, logger.propagate = [], True


@pytest.fixture
def as_users_have_it() -> Iterator[None]:
    """The package without the type checks that only tests switch on.

    They would reject a wrong value before the package's own check and message.
    """
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)

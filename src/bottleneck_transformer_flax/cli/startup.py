"""How this process asks the system for memory, which decides much of the speed on CPU."""

import ctypes
import gc

# From glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_LARGEST = 2**31 - 1
_ALLOCATIONS_BETWEEN_COLLECTIONS = 100_000


def keep_freed_memory() -> None:
    """Keep freed memory for the next allocation instead of giving it back to the system.

    XLA on CPU allocates every temporary buffer of a step anew. By default glibc maps each large
    one from the system and unmaps it after, so that every step begins with tens of thousands of
    page faults: they doubled the time of a training step (see benchmarks/NOTES.md). Elsewhere
    than on glibc this does nothing. Call it before jax is imported.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    for parameter, value in ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, _LARGEST)):
        mallopt(parameter, value)


def collect_garbage_seldom() -> None:
    """Let Python look for unused cycles of objects less often than after every 700 new ones.

    Importing jax and tracing a model make hundreds of thousands that all stay, and looking among
    them again and again takes a tenth of a command's start (see benchmarks/NOTES.md).
    """
    gc.set_threshold(_ALLOCATIONS_BETWEEN_COLLECTIONS)

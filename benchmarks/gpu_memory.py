"""A GPU's memory, which two libraries share: what it is given back, and when it is too little."""

import gc
from collections.abc import Callable

import jax
import torch

from benchmarks.gpu_measure import Row
from benchmarks.gpu_settings import Settings


def free_memory() -> None:
    """Give back what earlier work has left in memory."""
    torch._dynamo.reset()
    jax.clear_caches()
    gc.collect()
    torch.cuda.empty_cache()


def out_of_memory(error: BaseException) -> bool:
    """Whether the device had no room, as either library says it."""
    # By its words too: what breaks while PyTorch compiles is raised again as another error.
    said = ("RESOURCE_EXHAUSTED", "CUDA out of memory")
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in said)


def with_memory(
    measure: Callable[[int, Settings], list[Row]], batch_size: int, settings: Settings
) -> list[Row]:
    """Measure with half the batch for as long as it does not fit."""
    while True:
        try:
            return measure(batch_size, settings)
        except Exception as error:
            if not out_of_memory(error) or batch_size == 1:
                raise
        # Here, where the error no longer holds what was in memory.
        print(f"a batch of {batch_size} does not fit into memory; trying {batch_size // 2}")
        batch_size //= 2
        free_memory()

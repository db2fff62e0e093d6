"""Bottleneck Transformers (BoTNet, arXiv 2101.11605) for image classification in JAX and Flax.

Public names are imported when they are first used, so importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bottleneck_transformer_flax.checkpoints.pretrained import (
        Pretrained,
        save_pretrained,
    )
    from bottleneck_transformer_flax.conversion.loading import load_pretrained
    from bottleneck_transformer_flax.inference.predictor import Predictor
    from bottleneck_transformer_flax.models.botnet import BoTNet
    from bottleneck_transformer_flax.models.config import BoTNetConfig
    from bottleneck_transformer_flax.models.execution import Execution
    from bottleneck_transformer_flax.models.surgery import (
        fold_batch_norm,
        replace_head,
        resize_relative_positions,
    )
    from bottleneck_transformer_flax.models.variants import get_config, list_variants
    from bottleneck_transformer_flax.preprocessing import Preprocessing

__all__ = [
    "BoTNet",
    "BoTNetConfig",
    "Execution",
    "Predictor",
    "Preprocessing",
    "Pretrained",
    "fold_batch_norm",
    "get_config",
    "list_variants",
    "load_pretrained",
    "replace_head",
    "resize_relative_positions",
    "save_pretrained",
]

_HOMES = {
    "BoTNet": "models.botnet",
    "BoTNetConfig": "models.config",
    "Execution": "models.execution",
    "Predictor": "inference.predictor",
    "Preprocessing": "preprocessing",
    "Pretrained": "checkpoints.pretrained",
    "fold_batch_norm": "models.surgery",
    "get_config": "models.variants",
    "list_variants": "models.variants",
    "load_pretrained": "conversion.loading",
    "replace_head": "models.surgery",
    "resize_relative_positions": "models.surgery",
    "save_pretrained": "checkpoints.pretrained",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)

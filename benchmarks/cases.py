"""What is measured: a piece of work, with the same weights and inputs for every implementation."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file, save_file

from bottleneck_transformer_flax.conversion import timm
from bottleneck_transformer_flax.conversion.mapping import projections, to_torch
from bottleneck_transformer_flax.layers.attention import RelativeSelfAttention
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.config import BoTNetConfig
from bottleneck_transformer_flax.models.flops import abstract_variables, count_multiply_adds
from reference.variables import random_variables

PyTree = Any
Workload = Literal["inference", "training", "attention", "attention-training"]
WORKLOADS: tuple[Workload, ...] = get_args(Workload)

_OF_BRANCHES = np.float32(0.2)
_OURS, _THEIRS, _INPUTS, _LABELS = "ours.safetensors", "theirs.safetensors", "inputs", "labels"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One piece of work, in float32.

    Attributes:
        workload: "inference", the logits of a batch of normalised images; "training", an update of
            every parameter by SGD; "attention", the last stage's attention layer over a grid;
            "attention-training", that and the gradients of its input and parameters.
        variant: the name of the network, for those who read the results.
        config: the network.
        size: height and width of the images in pixels, or of the grid in positions.
        batch_size: images or grids.
    """

    workload: Workload
    variant: str
    config: BoTNetConfig
    size: tuple[int, int]
    batch_size: int

    @property
    def of_layer(self) -> bool:
        """Whether the work is that of one attention layer."""
        return self.workload.startswith("attention")

    @property
    def channels(self) -> int:
        """Channels of the attention layer's input."""
        return self.config.inner_channels(3)

    def attention_layer(self, backend: str) -> RelativeSelfAttention:
        """The layer of an attention workload."""
        query_key, value = self.config.head_sizes(self.channels)
        return RelativeSelfAttention(
            self.config.num_heads,
            value,
            query_key_dim=query_key,
            scaled_positions=self.config.scaled_positions,
            backend=backend,
        )

    @property
    def attention_weights_bytes(self) -> int:
        """Of all attention weights of one layer together, float32; 0 where many layers compute."""
        height, width = self.size
        heads = self.config.num_heads if self.of_layer else 0
        return 4 * self.batch_size * heads * (height * width) ** 2

    def floating_point_operations(self) -> int:
        """Of the convolutions and matrix products; gradients are two more of each."""
        height, width = self.size
        if self.of_layer:
            (query_key, value), heads = self.config.head_sizes(self.channels), self.config.num_heads
            positions = height * width
            of_projections = positions * self.channels * heads * (2 * query_key + value)
            of_positions = positions * heads * query_key * (height + width)
            of_weights = positions * positions * heads * (query_key + value)
            multiply_adds = of_projections + of_positions + of_weights
        else:
            multiply_adds = count_multiply_adds(BoTNet(config=self.config), self.size)
        passes = 3 if self.workload.endswith("training") else 1
        return 2 * passes * multiply_adds * self.batch_size


def write_case(case: Case, folder: Path) -> None:
    """Draw the weights and inputs of a case and leave them where implementations read them."""
    random = np.random.default_rng(1)
    inputs_shape = (case.batch_size, *case.size, case.channels if case.of_layer else 3)
    if case.of_layer:
        layer = case.attention_layer("reference")
        abstract_inputs = jax.ShapeDtypeStruct(inputs_shape, jnp.float32)
        shapes = jax.eval_shape(layer.init, jax.random.key(0), abstract_inputs)
    else:
        shapes = abstract_variables(BoTNet(config=case.config), case.size)
    ours = {
        ".".join(path): np.asarray(leaf)
        for path, leaf in flatten_dict(random_variables(shapes)).items()
    }
    if case.workload == "training":
        # Small residual branches, as when training begins: the gradients of deep networks whose
        # branches are as large as their inputs magnify rounding errors until losses differ.
        for name in ours:
            if name.endswith("expand.norm.scale"):
                ours[name] = _OF_BRANCHES * ours[name]
    theirs = _timm_layer(case, ours) if case.of_layer else _timm_network(case, ours)
    save_file(ours, folder / _OURS)
    save_file(
        {name: np.ascontiguousarray(array) for name, array in theirs.items()}, folder / _THEIRS
    )
    if case.workload == "training":
        inputs = random.integers(256, size=inputs_shape, dtype=np.uint8)
    else:
        inputs = random.normal(size=inputs_shape).astype(np.float32)
    np.save(folder / f"{_INPUTS}.npy", inputs)
    np.save(
        folder / f"{_LABELS}.npy", random.integers(case.config.num_classes, size=case.batch_size)
    )


def our_variables(folder: Path) -> PyTree:
    """The weights of a case."""
    arrays = {name: jnp.asarray(array) for name, array in load_file(folder / _OURS).items()}
    return unflatten_dict(arrays, sep=".")


def timm_arrays(folder: Path) -> dict[str, np.ndarray]:
    """The same weights under timm's names."""
    return load_file(folder / _THEIRS)


def inputs_and_labels(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """(NHWC, in training uint8 and else float32; the class of each)."""
    return np.load(folder / f"{_INPUTS}.npy"), np.load(folder / f"{_LABELS}.npy")


def _timm_network(case: Case, ours: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return to_torch(list(timm.mapping(case.config)), ours)


def _timm_layer(case: Case, ours: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    query_key, value = case.config.head_sizes(case.channels)
    kernels = [ours[f"params.{name}.kernel"] for name in ("query", "key", "value")]
    return {
        "qkv.weight": projections(query_key, query_key, value).to_torch(kernels),
        "pos_embed.height_rel": ours["params.relative_height"],
        "pos_embed.width_rel": ours["params.relative_width"],
    }

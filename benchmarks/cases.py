"""What a network or an attention layer computes: the same for every implementation."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file, save_file

from benchmarks.results import MEASURED, Row
from benchmarks.timing import Outputs, relative_difference
from bottleneck_transformer_flax.conversion import timm
from bottleneck_transformer_flax.conversion.mapping import projections, to_torch
from bottleneck_transformer_flax.layers.attention import RelativeSelfAttention
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.config import BoTNetConfig
from bottleneck_transformer_flax.models.flops import abstract_variables, count_multiply_adds
from reference.variables import random_variables

PyTree = Any
Workload = Literal["inference", "training", "attention", "attention-training", "gradients"]

UPDATES_COMPARED = 3
"""The training steps whose losses are compared."""
LEARNING_RATE, MOMENTUM = 1e-3, 0.9
_BRANCH_SCALE = np.float32(0.2)
_OURS, _THEIRS, _INPUTS, _LABELS = "ours.safetensors", "theirs.safetensors", "inputs", "labels"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One piece of work.

    Attributes:
        workload: "inference", the logits of a batch of normalised images; "training", an update of
            every parameter by SGD with momentum; "attention", the last stage's attention layer over
            a grid; "attention-training", the same with the gradients of its input and parameters;
            "gradients", a network's gradients without an update; its outputs are not compared.
        variant: name of the network.
        config: the network, and the dtype of the computation.
        size: height and width of the images in pixels, or of the grid in positions.
        batch_size: images or grids.
        device: where PyTorch computes; JAX computes on its default device.
        exact: whether outputs are only compared, not timed: a GPU does not round float32 products,
            and PyTorch compiles nothing.
        torch_backend: the backend that torch.compile is given.
        section: name of the benchmark, if it differs from the workload.
        status: status of the rows that do not fail.
        largest_difference: how far outputs may differ, as a fraction of the largest value.
        counted: whether FLOPs are counted and compared with the machine's peak.
    """

    workload: Workload
    variant: str
    config: BoTNetConfig
    size: tuple[int, int]
    batch_size: int
    device: Literal["cpu", "cuda"] = "cpu"
    exact: bool = False
    torch_backend: str = "inductor"
    section: str = ""
    status: str = MEASURED
    largest_difference: float = 1e-4
    counted: bool = True

    @property
    def half(self) -> bool:
        """Whether the computation is in bfloat16."""
        return jnp.dtype(self.config.dtype) == jnp.bfloat16

    @property
    def of_layer(self) -> bool:
        """Whether this is the work of one attention layer."""
        return self.workload.startswith("attention")

    @property
    def channels(self) -> int:
        """Channels of the attention layer's input."""
        return self.config.inner_channels(3)

    def difference(self, outputs: Outputs, expected: Outputs) -> float | None:
        """Distance of outputs from the first implementation's."""
        return relative_difference(outputs, expected)

    def row(self) -> Row:
        """What the rows of all implementations have in common."""
        return Row(
            benchmark=self.section or self.workload,
            case=self.variant,
            quantity="" if not self.section else self.workload,
            dtype=jnp.dtype(self.config.dtype).name,
            height=self.size[0],
            width=self.size[1],
            batch_size=self.batch_size,
            status=self.status,
        )

    def attention_layer(self, backend: str) -> RelativeSelfAttention:
        """The layer of an attention workload."""
        query_key, value = self.config.head_sizes(self.channels)
        return RelativeSelfAttention(
            self.config.num_heads,
            value,
            query_key_dim=query_key,
            scaled_positions=self.config.scaled_positions,
            dtype=self.config.dtype,
            backend=backend,
        )

    @property
    def flops(self) -> int | None:
        """FLOPs of the convolutions and matrix products; gradients take twice as many more."""
        if not self.counted:
            return None
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
        passes = 1 if self.workload in ("inference", "attention") else 3
        return 2 * passes * multiply_adds * self.batch_size

    def write(self, folder: Path) -> None:
        """Draw the weights and inputs, and write them where implementations read them."""
        ours = _random_weights(self)
        save_file(ours, folder / _OURS)
        if self.workload != "gradients":
            theirs = (
                _timm_layer(self, ours)
                if self.of_layer
                else to_torch(list(timm.mapping(self.config)), ours)
            )
            arrays = {name: np.ascontiguousarray(array) for name, array in theirs.items()}
            save_file(arrays, folder / _THEIRS)
        random = np.random.default_rng(1)
        shape = (self.batch_size, *self.size, self.channels if self.of_layer else 3)
        if self.workload == "training":
            inputs: np.ndarray = random.integers(256, size=shape, dtype=np.uint8)
        else:
            inputs = random.standard_normal(shape, np.float32)
        labels = random.integers(self.config.num_classes, size=self.batch_size)
        np.save(folder / f"{_INPUTS}.npy", inputs)
        np.save(folder / f"{_LABELS}.npy", labels)


def our_variables(folder: Path) -> PyTree:
    """Read the weights of a case."""
    arrays = {name: jnp.asarray(array) for name, array in load_file(folder / _OURS).items()}
    return unflatten_dict(arrays, sep=".")


def timm_arrays(folder: Path) -> dict[str, np.ndarray]:
    """Read the same weights under timm's names."""
    return load_file(folder / _THEIRS)


def inputs_and_labels(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the inputs, NHWC, uint8 for training and float32 otherwise, and their classes."""
    return np.load(folder / f"{_INPUTS}.npy"), np.load(folder / f"{_LABELS}.npy")


def _random_weights(case: Case) -> dict[str, np.ndarray]:
    if case.of_layer:
        inputs = jax.ShapeDtypeStruct((1, *case.size, case.channels), jnp.float32)
        layer = case.attention_layer("reference")
        shapes = jax.eval_shape(layer.init, jax.random.key(0), inputs)
    else:
        shapes = abstract_variables(BoTNet(config=case.config), case.size)
    variables = flatten_dict(random_variables(shapes), sep=".")
    weights = {name: np.asarray(leaf) for name, leaf in variables.items()}
    if case.workload == "training":
        # Small residual branches, as when training begins: the gradients of deep networks whose
        # branches are as large as their inputs magnify rounding errors until losses differ.
        for name in weights:
            if name.endswith("expand.norm.scale"):
                weights[name] = _BRANCH_SCALE * weights[name]
    return weights


def _timm_layer(case: Case, ours: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    query_key, value = case.config.head_sizes(case.channels)
    kernels = [ours[f"params.{name}.kernel"] for name in ("query", "key", "value")]
    return {
        "qkv.weight": projections(query_key, query_key, value).to_torch(kernels),
        "pos_embed.height_rel": ours["params.relative_height"],
        "pos_embed.width_rel": ours["params.relative_width"],
    }

"""BoTNet: a stem, four stages of residual blocks, and a classifier."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bottleneck_transformer_flax.axes import Array, Float
from bottleneck_transformer_flax.errors import ConfigError
from bottleneck_transformer_flax.layers.convolution import stem_max_pool
from bottleneck_transformer_flax.layers.dropout import Dropout
from bottleneck_transformer_flax.layers.remat import rematerialise
from bottleneck_transformer_flax.layers.sharding import sharded_by_batch
from bottleneck_transformer_flax.models.blocks import (
    ACTIVATIONS,
    BLOCKS,
    AttentionBottleneck,
    configured_convolution,
)
from bottleneck_transformer_flax.models.config import STAGE_NAMES, BoTNetConfig
from bottleneck_transformer_flax.models.execution import Execution


class Stem(nn.Module):
    """The first convolutions and the max-pool, if any."""

    config: BoTNetConfig
    execution: Execution

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Array:
        """Compute the input of c2 from images."""
        config = self.config
        layers = zip(config.stem_channels, config.stem_strides, strict=True)
        for index, (channels, stride) in enumerate(layers):
            x = configured_convolution(config, self.execution)(
                channels,
                kernel_size=7 if config.stem == "7x7" else 3,
                stride=stride,
                activation=ACTIVATIONS[config.activation],
                name=f"layer_{index + 1}",
            )(x, train=train)
        return stem_max_pool(x) if config.stem_pool else x


class Stage(nn.Module):
    """Residual blocks ``block_1``, ``block_2``, …; the first may change resolution and width.

    In a stage with patches, the convolution ``patches`` does that instead, before the blocks.
    """

    config: BoTNetConfig
    execution: Execution
    stage: int

    def setup(self) -> None:
        """Create the parts, with a drop rate that grows over all blocks of the model."""
        config, stage = self.config, self.stage
        in_channels, out_channels = config.in_channels(stage), config.out_channels(stage)
        stride = config.stage_strides[stage]
        before, total = sum(config.stage_sizes[:stage]), sum(config.stage_sizes)
        patches = []
        if config.has_patches(stage):
            patches = [
                configured_convolution(config, self.execution)(
                    out_channels,
                    kernel_size=2,
                    stride=stride,
                    activation=ACTIVATIONS[config.activation],
                    name="patches",
                )
            ]
            in_channels, stride = out_channels, 1
        self.parts = patches + [
            BLOCKS[kind](
                config,
                self.execution,
                in_channels=in_channels if index == 0 else out_channels,
                filters=config.inner_channels(stage),
                out_channels=out_channels,
                stride=stride if index == 0 else 1,
                drop_rate=config.stochastic_depth_rate * (before + index) / max(1, total - 1),
                name=f"block_{index + 1}",
            )
            for index, kind in enumerate(config.block_kinds(stage))
        ]

    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Array:
        """Apply the parts in turn."""
        for part in self.parts:
            if train:
                x = rematerialise(part, x, save_nothing=self.execution.remat)
            else:
                x = part(x, train=False)
        return x


class BoTNet(nn.Module):
    """The Bottleneck Transformer (arXiv 2101.11605) and the ResNets it is compared with.

    Applying it to images returns float32 logits, in inference by default. To train, pass
    ``train=True, mutable=["batch_stats"]``, and ``rngs={"dropout": key}`` if the config has a
    dropout or stochastic depth rate.

    Attributes:
        config: the architecture, which is saved with the weights.
        execution: how the model computes and trains; never saved.
    """

    config: BoTNetConfig
    execution: Execution = Execution()

    def setup(self) -> None:
        """Create the stem, the stages with blocks such as ``c2/block_1``, and the head."""
        if not isinstance(self.config, BoTNetConfig):
            raise ConfigError(
                f"config is a {type(self.config).__name__}; expected a BoTNetConfig, such as "
                'get_config("botnet_t3")'
            )
        if not isinstance(self.execution, Execution):
            raise ConfigError(
                f"execution is a {type(self.execution).__name__}; expected an Execution, such as "
                'Execution(attention_backend="reference")'
            )
        self.stem = Stem(self.config, self.execution)
        self.stages = {
            name: Stage(self.config, self.execution, stage, name=name)
            for stage, name in enumerate(STAGE_NAMES)
        }
        if self.config.final_channels:
            self.final = configured_convolution(self.config, self.execution)(
                self.config.final_channels, activation=ACTIVATIONS[self.config.activation]
            )
        self.dropout = Dropout(self.config.dropout_rate)
        self.head = classifier_head(self.config.num_classes)

    def __call__(
        self, images: Float[Array | np.ndarray, "b h w c"], *, train: bool = False
    ) -> Float[Array, "b classes"]:
        """Classify normalised NHWC images.

        Returns:
            Logits, float32, (b, num_classes).

        Raises:
            ConfigError: when the images are too small, have the wrong number of channels, are not
                floating point, or give an attention grid that the variables are not for.
        """
        features = self.feature_maps(images, train=train)["c5"]
        if self.config.final_channels:
            features = self.final(features, train=train)
        pooled = jnp.mean(features, axis=(1, 2), dtype=jnp.float32)
        return self.head(self.dropout(pooled, deterministic=not train))

    def feature_maps(
        self, images: Float[Array | np.ndarray, "b h w c"], *, train: bool = False
    ) -> dict[str, Float[Array, "b map_h map_w map_c"]]:
        """Output of every stage, {"c2": …, "c5": …}, in the model's dtype, for dense prediction.

        Raises as ``__call__`` does.
        """
        if train and self.config.folded_batch_norm:
            raise ConfigError(
                "a model with folded batch norm cannot be trained, because its norms are part of "
                "its weights; train the model that fold_batch_norm was given"
            )
        frozen = self.execution.frozen_parts if train else ()
        x = self._stem_output(images, train=train and "stem" not in frozen)
        x = jax.lax.stop_gradient(x) if "stem" in frozen else x
        outputs = {}
        for name, stage in self.stages.items():
            x = stage(x, train=train and name not in frozen)
            x = outputs[name] = jax.lax.stop_gradient(x) if name in frozen else x
        return outputs

    def attention_maps(self, images: Float[Array | np.ndarray, "b h w c"]) -> dict[str, Array]:
        """Attention weights of every attention block, {"c5/block_1": …}.

        Each is float32, (b, n, h, w, h, w): for each head and query position (row, column), weights
        over the key positions, which sum to 1. Raises as ``__call__`` does.
        """
        x = self._stem_output(images, train=False)
        maps, reshape = {}, sharded_by_batch(jnp.reshape)
        for stage_name, stage in self.stages.items():
            for part in stage.parts:
                if isinstance(part, AttentionBottleneck):
                    b, h, w, _ = x.shape
                    grid = (b, self.config.num_heads, h, w, h, w)
                    weights = part.attention_weights(x)
                    maps[f"{stage_name}/{part.name}"] = reshape(weights, grid)
                x = part(x, train=False)
        return maps

    def _stem_output(self, images: Array | np.ndarray, *, train: bool) -> Array:
        check_images(images, self.config)
        images = jnp.asarray(images, self.config.dtype)
        if train:
            return rematerialise(self.stem, images, save_nothing=self.execution.remat)
        return self.stem(images, train=False)


def classifier_head(num_classes: int) -> nn.Dense:
    """The last layer, in float32 whatever the model's dtype."""
    return nn.Dense(num_classes, kernel_init=nn.initializers.normal(0.01))


def check_images(images: Array | np.ndarray, config: BoTNetConfig) -> None:
    """Check that a model of this config accepts these images.

    Raises:
        ConfigError: when it does not; the message says what is expected, and the remedy.
    """
    if not isinstance(images, Array | np.ndarray):
        raise ConfigError(
            f"images are a {type(images).__name__}; expected one array (batch, height, width, "
            "channels): combine a list of images with np.stack"
        )
    if images.ndim != 4:
        raise ConfigError(
            f"images have shape {images.shape}; expected (batch, height, width, channels): add "
            "a batch axis to a single image with images[None]"
        )
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ConfigError(
            f"images are {images.dtype}; expected normalised floating point values: see "
            "Preprocessing.normalize"
        )
    height, width, channels = images.shape[1:]
    if channels != config.image_channels:
        raise ConfigError(
            f"images of shape {images.shape} have {channels} channels; expected "
            f"{config.image_channels} on the last axis: convert the images, or set image_channels"
        )
    if min(height, width) < config.total_stride:
        raise ConfigError(
            f"images are {height} × {width} pixels; expected at least {config.total_stride} on "
            "each side, the network's total stride: enlarge them (image_size), or use a model "
            'with a smaller stride (stem="3x3", stem_pool=False)'
        )

"""BoTNet: a stem, four stages of residual blocks, and a classifier."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bottleneck_transformer_flax.axes import Array, Float
from bottleneck_transformer_flax.errors import ConfigError
from bottleneck_transformer_flax.layers.attention import AttentionMaps
from bottleneck_transformer_flax.layers.convolution import stem_max_pool
from bottleneck_transformer_flax.layers.dropout import Dropout
from bottleneck_transformer_flax.layers.remat import rematerialise
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

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        *,
        train: bool,
        attention: dict[str, AttentionMaps] | None = None,
    ) -> Array:
        """Apply the parts in turn; note in a given dictionary what each block attends to."""
        for part in self.parts:
            if attention is not None and isinstance(part, AttentionBottleneck):
                attention[f"{self.name}/{part.name}"] = part.attention_maps(x)
            if train:
                x = rematerialise(part, x, save_nothing=self.execution.remat)
            else:
                x = part(x, train=False)
        return x


class Outputs(NamedTuple):
    """Everything that a network computes of some images.

    Attributes:
        logits: as ``BoTNet.__call__`` gives them.
        pooled_features: as ``BoTNet.pooled_features``.
        feature_maps: as ``BoTNet.feature_maps``.
        attention_maps: as ``BoTNet.attention_maps``.
    """

    logits: Float[Array, "b classes"]
    pooled_features: Float[Array, "b features"]
    feature_maps: dict[str, Float[Array, "b map_h map_w map_c"]]
    attention_maps: dict[str, Float[Array, "b n h w key_h key_w"]]


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
        pooled = self.pooled_features(images, train=train)
        return self.head(self.dropout(pooled, deterministic=not train))

    def pooled_features(
        self, images: Float[Array | np.ndarray, "b h w c"], *, train: bool = False
    ) -> Float[Array, "b features"]:
        """Means over all positions of the last feature map, which the head classifies; float32.

        Raises as ``__call__`` does.
        """
        return self._pool(self.feature_maps(images, train=train)["c5"], train=train)

    def feature_maps(
        self, images: Float[Array | np.ndarray, "b h w c"], *, train: bool = False
    ) -> dict[str, Float[Array, "b map_h map_w map_c"]]:
        """Output of every stage, {"c2": …, "c5": …}, in the model's dtype, for dense prediction.

        Raises as ``__call__`` does.
        """
        return self._feature_maps(images, train=train)

    def _feature_maps(
        self,
        images: Float[Array | np.ndarray, "b h w c"],
        *,
        train: bool,
        attention: dict[str, AttentionMaps] | None = None,
    ) -> dict[str, Array]:
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
            x = stage(x, train=train and name not in frozen, attention=attention)
            x = outputs[name] = jax.lax.stop_gradient(x) if name in frozen else x
        return outputs

    def attention_maps(self, images: Float[Array | np.ndarray, "b h w c"]) -> dict[str, Array]:
        """What every attention block attends to.

        Returns:
            For each block, in order, its weights as "c5/block_1", and the two logits whose sum they
            are the softmax of as "c5/block_1/content_logits" and "c5/block_1/position_logits".
            Each is float32, (b, n, h, w, h, w): for each head and query position (row, column), a
            value for every key position. A query's weights sum to 1.

        Raises as ``__call__`` does.
        """
        return self.outputs(images).attention_maps

    def outputs(self, images: Float[Array | np.ndarray, "b h w c"]) -> Outputs:
        """Everything at once, in inference; raises as ``__call__`` does."""
        attention: dict[str, AttentionMaps] = {}
        feature_maps = self._feature_maps(images, train=False, attention=attention)
        pooled = self._pool(feature_maps["c5"], train=False)
        maps = {}
        for block, (weights, content_logits, position_logits) in attention.items():
            maps[block] = weights
            maps[f"{block}/content_logits"] = content_logits
            maps[f"{block}/position_logits"] = position_logits
        return Outputs(self.head(pooled), pooled, feature_maps, maps)

    def classify(self, features: Float[Array, "b h w c"]) -> Float[Array, "b classes"]:
        """Logits from the last feature map, "c5", in inference."""
        return self.head(self._pool(features, train=False))

    def _pool(self, features: Float[Array, "b h w c"], *, train: bool) -> Array:
        if self.config.final_channels:
            features = self.final(features, train=train)
        return jnp.mean(features, axis=(1, 2), dtype=jnp.float32)

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

"""Why a model takes an image for what it does: its attention, its rollout, and Grad-CAM."""

from collections.abc import Sequence
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from PIL import Image

from bottleneck_transformer_flax.augmentation.image import EvaluationTransform
from bottleneck_transformer_flax.axes import Array
from bottleneck_transformer_flax.checkpoints.pretrained import Pretrained
from bottleneck_transformer_flax.decoding import DecodedImage, ImageInput, decode_image
from bottleneck_transformer_flax.errors import ConfigError
from bottleneck_transformer_flax.models.botnet import BoTNet, Outputs
from bottleneck_transformer_flax.models.surgery import Variables

_PHOTO_SIDE = 512
"""Shorter side of the photograph in an explanation, in pixels, where the file has as many."""


class HeadAttention(NamedTuple):
    """Where the heads of one block look from one position; each map sums to 1 over all positions.

    Attributes:
        position: (row, column) of the query in the block's grid.
        weights: the attention, softmax(content + position logits).
        content: softmax of the content logits alone.
        relative: softmax of the position logits alone.
    """

    position: tuple[int, int]
    weights: Float[np.ndarray, "n h w"]
    content: Float[np.ndarray, "n h w"]
    relative: Float[np.ndarray, "n h w"]


class Explanation(NamedTuple):
    """What a model sees in an image.

    Attributes:
        photo: the part of the image that the model sees, in more pixels.
        ranking: all classes with their probabilities, best first.
        block: name of the block that attends, such as "c5/block_3".
        heads: where its heads look, from each chosen position.
        rollout: attention rollout: how much each position of the first attention block's grid
            counts for the mean over the last one's; sums to 1.
        grad_cam: evidence for the likeliest class at each position of the last feature map, at
            least 0.
        tables: the block's relative tables for height and width, (2L − 1, d) each.
    """

    photo: Image.Image
    ranking: tuple[tuple[str, float], ...]
    block: str
    heads: tuple[HeadAttention, ...]
    rollout: Float[np.ndarray, "h w"]
    grad_cam: Float[np.ndarray, "h w"]
    tables: tuple[Float[np.ndarray, "height_rows d"], Float[np.ndarray, "width_rows d"]]


def explain(
    pretrained: Pretrained,
    image: ImageInput,
    *,
    positions: Sequence[tuple[int, int]] = (),
    block: str | None = None,
) -> Explanation:
    """Compute what a model attends to in an image.

    Args:
        pretrained: the model.
        image: what ``decode_image`` takes.
        positions: (row, column) of each position to look from, in the block's grid; by default the
            one where the evidence for the likeliest class is largest.
        block: name of the block; by default the last that attends.

    Raises:
        DataError: when the image cannot be read.
        ConfigError: when the model has no such block or position.
    """
    decoded = decode_image(image)
    preprocessing = pretrained.preprocessing
    transform = EvaluationTransform(preprocessing)
    inputs = preprocessing.normalize(transform(DecodedImage(decoded))[None])
    found, grad_cam = _compute(pretrained.model, pretrained.variables, inputs)
    maps = {name: np.asarray(each[0]) for name, each in found.attention_maps.items()}
    blocks = [name for name in maps if not name.endswith("_logits")]
    if not blocks:
        raise ConfigError("the model has no attention to look at; expected a BoTNet")
    block = blocks[-1] if block is None else block
    if block not in blocks:
        raise ConfigError(f"block is {block!r}; expected one of {', '.join(blocks)}")
    grid = maps[block].shape[-2:]
    for row, column in positions:
        if not (0 <= row < grid[0] and 0 <= column < grid[1]):
            raise ConfigError(
                f"at is ({row}, {column}), but the grid of {block} has {grid[0]} rows and "
                f"{grid[1]} columns, counted from 0"
            )
    attention = pretrained.variables["params"]
    for part in (*block.split("/"), "attention"):
        attention = attention[part]
    logits = np.asarray(found.logits[0], np.float64)
    probabilities = _softmax(logits / preprocessing.temperature)
    order = np.argsort(-probabilities, kind="stable").tolist()
    return Explanation(
        photo=_photo(decoded, transform),
        ranking=tuple((pretrained.classes[i], float(probabilities[i])) for i in order),
        block=block,
        heads=tuple(
            HeadAttention(
                position,
                maps[block][:, *position],
                *(
                    _softmax_over_grid(maps[f"{block}/{kind}_logits"][:, *position])
                    for kind in ("content", "position")
                ),
            )
            for position in (positions or [_strongest(grad_cam, grid)])
        ),
        rollout=attention_rollout([maps[name] for name in blocks]),
        grad_cam=grad_cam,
        tables=(
            np.asarray(attention["relative_height"]),
            np.asarray(attention["relative_width"]),
        ),
    )


def attention_rollout(
    weights: Sequence[Float[np.ndarray, "_ _ _ _ _"]],
) -> Float[np.ndarray, "h w"]:
    """How much each input position counts for the mean output, through all attention blocks.

    Each block passes on half of its input and half of what its heads attend to on average:
    ``R ← (I + mean_heads A) / 2 · R`` (Abnar and Zuidema 2020, arXiv 2005.00928, section 3). What
    lies between the blocks is taken to leave positions in their place; where the grid shrinks,
    neighbouring positions are averaged. The result sums to 1.

    Args:
        weights: attention weights of each block in order, (heads, rows, columns, key rows, key
            columns) each.
    """
    *first, _, _ = weights[0].shape[1:]
    grid = tuple(first)
    rolled = np.eye(grid[0] * grid[1])
    for each in weights:
        size = each.shape[-2:]
        if size != grid:
            rolled = _averaged(rolled, grid, size)
            grid = size
        mean = each.mean(axis=0, dtype=np.float64).reshape(size[0] * size[1], -1)
        rolled = (rolled + mean @ rolled) / 2
    return rolled.mean(axis=0).reshape(first)


def _compute(
    model: BoTNet, variables: Variables, inputs: Float[np.ndarray, "1 h w c"]
) -> tuple[Outputs, Float[np.ndarray, "map_h map_w"]]:
    """What the model computes of one image, and Grad-CAM of its likeliest class.

    ``relu(Σ_c a_c F_c)`` with the last feature map F and the mean over all positions a_c of the
    class's gradient (Selvaraju et al. 2017, arXiv 1610.02391, equations 1 and 2).
    """

    def compute(variables: Variables, inputs: Array) -> tuple[Outputs, Array]:
        outputs = cast(Outputs, model.apply(variables, inputs, method="outputs"))
        features = outputs.feature_maps["c5"].astype(jnp.float32)

        def top_logit(features: Array) -> Array:
            logits = cast(Array, model.apply(variables, features, method="classify"))
            return jnp.take(logits[0], jnp.argmax(outputs.logits[0]))

        weights = jax.grad(top_logit)(features).mean(axis=(1, 2), keepdims=True)
        return outputs, jax.nn.relu((weights * features).sum(axis=-1))[0]

    outputs, grad_cam = jax.jit(compute)(variables, jnp.asarray(inputs))
    return outputs, np.asarray(grad_cam)


def _averaged(
    rolled: Float[np.ndarray, "positions inputs"], grid: tuple[int, ...], size: tuple[int, ...]
) -> Float[np.ndarray, "new_positions inputs"]:
    """Means over the positions of a grid that fall into each position of a smaller one."""
    row = np.arange(grid[0]) * size[0] // grid[0]
    column = np.arange(grid[1]) * size[1] // grid[1]
    target = (row[:, None] * size[1] + column).reshape(-1)
    pooling = np.zeros((size[0] * size[1], len(target)))
    pooling[target, np.arange(len(target))] = 1
    return pooling / pooling.sum(axis=1, keepdims=True) @ rolled


def _strongest(
    evidence: Float[np.ndarray, "map_h map_w"], grid: tuple[int, ...]
) -> tuple[int, int]:
    """The position of a grid at the largest evidence; the centre where there is none."""
    if not evidence.any():
        return grid[0] // 2, grid[1] // 2
    row, column = np.unravel_index(np.argmax(evidence), evidence.shape)
    # The middle of a position in one grid is somewhere in a position of the other.
    return (
        int((row + 0.5) * grid[0] / evidence.shape[0]),
        int((column + 0.5) * grid[1] / evidence.shape[1]),
    )


def _photo(image: Image.Image, transform: EvaluationTransform) -> Image.Image:
    """What the model sees of an image, larger where the image has the pixels."""
    height, width = transform.preprocessing.size
    crop = transform.preprocessing.crop
    most = min(image.height * crop / height, image.width * crop / width)
    scale = max(1, min(int(most), -(-_PHOTO_SIDE // min(height, width))))
    larger = transform.preprocessing.replace(size=(height * scale, width * scale))
    return EvaluationTransform(larger).centre(image)


def _softmax_over_grid(logits: Float[np.ndarray, "n h w"]) -> Float[np.ndarray, "n h w"]:
    flat = _softmax(logits.reshape(len(logits), -1).astype(np.float64))
    return flat.reshape(logits.shape)


def _softmax(logits: Float[np.ndarray, "*axes values"]) -> Float[np.ndarray, "*axes values"]:
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)

"""What a run starts from: an architecture, its preprocessing, and weights or random variables."""

import jax
import jax.numpy as jnp

from bottleneck_transformer_flax.axes import Array
from bottleneck_transformer_flax.checkpoints.pretrained import Pretrained
from bottleneck_transformer_flax.conversion.loading import load_pretrained
from bottleneck_transformer_flax.errors import CheckpointError
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.config import BoTNetConfig
from bottleneck_transformer_flax.models.surgery import replace_head
from bottleneck_transformer_flax.models.variants import get_variant
from bottleneck_transformer_flax.preprocessing import Preprocessing
from bottleneck_transformer_flax.training.config import RunConfig
from bottleneck_transformer_flax.training.train_state import Variables

DEFAULT_CROP = 0.875


def starting_point(
    config: RunConfig, native_size: tuple[int, int] | None
) -> tuple[BoTNetConfig, Preprocessing, Pretrained | None]:
    """Architecture, preprocessing, and weights where there are any, to start from.

    Preprocessing follows the options, then the weights, then what suits the data.
    """
    pretrained = None
    if config.pretrained is not None:
        pretrained = load_pretrained(config.pretrained, image_size=config.input.image_size)
        if pretrained.model.config.folded_batch_norm:
            raise CheckpointError(
                f"the batch norms of {config.pretrained} are folded into its weights, so it cannot "
                "be trained; name the model that it was folded from"
            )
        # The temperature was fitted to weights that training will change.
        start = pretrained.model.config
        preprocessing = pretrained.preprocessing.replace(temperature=1.0)
    else:
        variant = get_variant(str(config.variant))
        start = variant.config
        preprocessing = Preprocessing(size=native_size or variant.image_size, crop=DEFAULT_CROP)
    if native_size:
        preprocessing = preprocessing.replace(crop=1.0)
    options = {
        "size": config.input.image_size,
        "crop": config.input.eval_crop,
        "interpolation": config.input.interpolation,
    }
    given = {name: value for name, value in options.items() if value is not None}
    return start, preprocessing.replace(**given), pretrained


def initial_variables(
    model: BoTNet,
    image_size: tuple[int, int],
    key: Array,
    *,
    pretrained: Pretrained | None,
    keeps_head: bool,
) -> Variables:
    """The pretrained variables, with a new head unless theirs is kept, or random ones."""
    if pretrained is None:
        images = jnp.zeros((1, *image_size, model.config.image_channels))
        # Run once: optimising the program would take longer than running it.
        compiler_options = {"xla_backend_optimization_level": 0}
        return jax.jit(model.init, compiler_options=compiler_options)(key, images)
    start, variables, _, _ = pretrained
    if not keeps_head:
        num_classes = model.config.num_classes
        _, variables = replace_head(start, variables, num_classes=num_classes, rng=key)
    # Copies: the step donates its state, and the pretrained variables may be needed again.
    return jax.tree.map(jnp.copy, variables)

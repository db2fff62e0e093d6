"""Dropout on any mesh."""

import flax.linen as nn

from bottleneck_transformer_flax.axes import Array, Float
from bottleneck_transformer_flax.layers.sharding import sharded_by_batch


class Dropout(nn.Dropout):
    """``nn.Dropout``, whose random mask would not be sharded like its input on Explicit axes."""

    def __call__(
        self,
        inputs: Float[Array, "b ..."],
        deterministic: bool | None = None,
        rng: Array | None = None,
    ) -> Float[Array, "b ..."]:
        """Drop some of the inputs and scale the others, or return all as they are."""
        if rng is None and self.rate and not deterministic:
            rng = self.make_rng(self.rng_collection)
        return sharded_by_batch(super().__call__)(inputs, deterministic, rng)

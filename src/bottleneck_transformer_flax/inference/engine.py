"""The compiled forward pass that predicting and evaluating share."""

from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bottleneck_transformer_flax.axes import Array, Float, Int, UInt8
from bottleneck_transformer_flax.distributed import DataParallel
from bottleneck_transformer_flax.layers.conv_algorithms import compiler_options
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.surgery import Variables
from bottleneck_transformer_flax.preprocessing import Preprocessing

NO_LABEL = -1


class Scores(NamedTuple):
    """What a model says about a batch of images.

    Attributes:
        classes: likeliest classes, best first; the lower class first among equals.
        probabilities: probability of each of them, ``softmax(logits / temperature)``.
        logits: logits of all classes, or of none where the engine doesn't keep them.
        losses: cross-entropy of each label; meaningless where there is none.
        labels: true classes as given, in the same order as the scores.
    """

    classes: Int[Array | np.ndarray, "b k"]
    probabilities: Float[Array | np.ndarray, "b k"]
    logits: Float[Array | np.ndarray, "b classes"]
    losses: Float[Array | np.ndarray, " b"]
    labels: Int[Array | np.ndarray, " b"]


class Engine:
    """Scores batches of images with one model, compiled once for each batch size."""

    def __init__(
        self,
        model: BoTNet,
        preprocessing: Preprocessing,
        *,
        top_k: int,
        keep_logits: bool = False,
        devices: DataParallel | None = None,
    ) -> None:
        """Compile nothing yet.

        Args:
            model: network to run.
            preprocessing: how images become its input, and logits probabilities.
            top_k: number of classes to rank, at most those of the model.
            keep_logits: whether to give the logits too.
            devices: the devices to spread each batch over; by default JAX's first device.
        """
        self._devices = devices
        kept = model.config.num_classes if keep_logits else 0

        def score(
            variables: Variables,
            images: UInt8[Array, "b h w c"],
            labels: Int[Array | np.ndarray, " b"],
        ) -> Scores:
            logits = cast(Array, model.apply(variables, preprocessing.normalize(images)))
            _, classes = jax.lax.top_k(logits, top_k)
            probabilities = jax.nn.softmax(logits / preprocessing.temperature)
            probabilities = jnp.take_along_axis(probabilities, classes, axis=1)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            scores = Scores(classes, probabilities, logits[:, :kept], losses, labels)
            return scores if devices is None else devices.constrain_replicated(scores)

        self._score = jax.jit(score, compiler_options=compiler_options())

    def __call__(
        self,
        variables: Variables,
        images: UInt8[np.ndarray, "b h w c"],
        labels: Int[np.ndarray, " b"],
    ) -> Scores:
        """Score one batch; each process passes its own rows and gets the scores of all rows.

        Args:
            variables: the model's parameters and batch statistics.
            images: RGB in [0, 255], of the model's size.
            labels: true classes, or NO_LABEL.
        """
        batch = images, labels
        if self._devices is not None:
            batch = self._devices.place_batch(batch)
        scores: Scores = jax.tree.map(np.asarray, self._score(variables, *batch))
        return scores

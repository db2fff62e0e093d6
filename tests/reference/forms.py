"""The forms that a model is run in: every attention backend, and folded batch norm."""

import pytest

from bottleneck_transformer_flax.layers.attention_backends.choice import BACKENDS
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.surgery import fold_batch_norm

FOLDED = "folded"
# The usual one quickly, the others among the slow tests.
BACKEND_FORMS = [
    name if name == "auto" else pytest.param(name, marks=pytest.mark.slow) for name in BACKENDS
]
FORMS = [*BACKEND_FORMS, pytest.param(FOLDED, marks=pytest.mark.slow)]


def in_form(form, model, variables):
    """(model, variables) that compute the same."""
    if form == FOLDED:
        return fold_batch_norm(model, variables)
    return BoTNet(config=model.config.replace(attention_backend=form)), variables

"""The forms that a model is run in: every attention backend, and folded batch norm."""

import pytest

from bottleneck_transformer_flax.layers.attention_backends.choice import BACKENDS
from bottleneck_transformer_flax.models.execution import Execution
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
    algorithm = "plain" if form == "reference" else "auto"
    execution = Execution(attention_backend=form, convolution_algorithm=algorithm)
    return model.clone(execution=execution), variables

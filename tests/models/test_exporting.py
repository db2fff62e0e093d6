"""Models trace for any batch size, and alike on every machine where that is asked for."""

import jax
import jax.numpy as jnp
import pytest
from jax.export import export, symbolic_shape

from bottleneck_transformer_flax.models.execution import Execution
from reference.forms import FOLDED, in_form
from reference.small_models import SMALL_MODELS, kinds, small_size, small_variables

PLAIN = Execution(attention_backend="reference", convolution_algorithm="plain")


def arguments(name, batch):
    """Variables, and images as shapes."""
    images = jax.ShapeDtypeStruct((batch, *small_size(name), 3), jnp.float32)
    return small_variables(name), images


@pytest.mark.parametrize(
    "name", kinds("botnet50", "botnet_t3", "resnet50", "botnet_tiny", "eca_botnext26ts_256")
)
def test_every_kind_traces_with_a_symbolic_batch(name):
    (batch,) = symbolic_shape("b")
    exported = export(jax.jit(SMALL_MODELS[name].apply))(*arguments(name, batch))
    assert exported.out_avals[0].shape == (batch, 5)


@pytest.mark.parametrize("form", ["blockwise", "fused", FOLDED])
def test_every_form_traces_with_a_symbolic_batch(form):
    (batch,) = symbolic_shape("b")
    _, images = arguments("botnet_t3", batch)
    model, variables = in_form(form, SMALL_MODELS["botnet_t3"], small_variables("botnet_t3"))
    exported = export(jax.jit(model.apply))(variables, images)
    assert exported.out_avals[0].shape == (batch, 5)


def test_the_plain_execution_traces_alike_everywhere_and_exports_for_all_platforms(monkeypatch):
    name = "botnet_t3"
    model = SMALL_MODELS[name].clone(execution=PLAIN)
    variables, images = arguments(name, 64)
    here = str(jax.make_jaxpr(model.apply)(variables, images))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert str(jax.make_jaxpr(model.apply)(variables, images)) == here
    exported = export(jax.jit(model.apply), platforms=("cpu", "cuda", "tpu"))(variables, images)
    assert exported.platforms == ("cpu", "cuda", "tpu")

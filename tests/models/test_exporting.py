"""Models trace for any batch size, and alike on every machine where that is asked for."""

import jax
import jax.numpy as jnp
import pytest
from jax.export import export, symbolic_shape

from bottleneck_transformer_flax.models.execution import Execution
from reference.small_models import SMALL_MODELS, grid_stride

PLAIN = Execution(attention_backend="reference", convolution_algorithm="plain")


def abstract_arguments(model, name, batch):
    """Variables and images as shapes."""
    images = jax.ShapeDtypeStruct((batch, 2 * grid_stride(name), 3 * grid_stride(name), 3), "f4")
    one_image = jnp.zeros((1, *images.shape[1:]))
    return jax.eval_shape(model.init, jax.random.key(0), one_image), images


@pytest.mark.parametrize(
    ("name", "changes"),
    [*((name, {}) for name in SMALL_MODELS), ("botnet_t3", {"folded_batch_norm": True})],
)
def test_every_kind_traces_with_a_symbolic_batch(name, changes):
    model = SMALL_MODELS[name]
    model = model.clone(config=model.config.replace(**changes))
    (batch,) = symbolic_shape("b")
    exported = export(jax.jit(model.apply))(*abstract_arguments(model, name, batch))
    assert exported.out_avals[0].shape == (batch, 5)


@pytest.mark.parametrize("backend", ["blockwise", "fused"])
def test_every_attention_backend_traces_with_a_symbolic_batch(backend):
    model = SMALL_MODELS["botnet_s1_50"].clone(execution=Execution(attention_backend=backend))
    (batch,) = symbolic_shape("b")
    arguments = abstract_arguments(model, "botnet_s1_50", batch)
    assert export(jax.jit(model.apply))(*arguments).out_avals[0].shape == (batch, 5)


def test_the_plain_execution_traces_alike_everywhere_and_exports_for_all_platforms(monkeypatch):
    name = "botnet_t3"
    model = SMALL_MODELS[name].clone(execution=PLAIN)
    arguments = abstract_arguments(model, name, 64)
    here = str(jax.make_jaxpr(model.apply)(*arguments))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert str(jax.make_jaxpr(model.apply)(*arguments)) == here
    exported = export(jax.jit(model.apply), platforms=("cpu", "cuda", "tpu"))(*arguments)
    assert exported.platforms == ("cpu", "cuda", "tpu")

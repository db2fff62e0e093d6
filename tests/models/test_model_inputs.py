"""Images a model cannot read: one clear line that says what came, what is allowed, what to do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bottleneck_transformer_flax.errors import ConfigError
from bottleneck_transformer_flax.models.botnet import BoTNet
from reference.forms import FOLDED, in_form
from reference.small_models import SMALL_MODELS, apply, grid_stride, small_variables

pytestmark = pytest.mark.usefixtures("as_users_have_it")
METHODS = ["__call__", "feature_maps", "attention_maps"]
SIZE = (48, 80)


def message_of(name, images, method="__call__"):
    with pytest.raises(ConfigError) as error:
        SMALL_MODELS[name].apply(small_variables(name, *SIZE), images, method=method)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("images", "words"),
    [
        ([jnp.zeros((48, 80, 3))], ["a list", "one array", "np.stack"]),
        (jnp.zeros((48, 80, 3)), ["(48, 80, 3)", "batch", "images[None]"]),
        (jnp.zeros((2, 48, 80, 3), jnp.uint8), ["uint8", "floating point", "normal"]),
        (jnp.zeros((2, 48, 80, 3), jnp.int32), ["int32", "floating point"]),
        (jnp.zeros((2, 48, 80, 1)), ["1 channels", "expected 3", "image_channels"]),
        (jnp.zeros((2, 3, 48, 80)), ["(2, 3, 48, 80)", "80 channels", "NHWC"]),
        (jnp.zeros((2, 48, 15, 3)), ["48 × 15", "at least 16", "enlarge"]),
        (jnp.zeros((2, 4, 64, 3)), ["4 × 64", "at least 16"]),
    ],
)
def test_wrong_images(images, words, method):
    message = message_of("botnet_t3", images, method)
    assert all(word in message for word in words), message


@pytest.mark.parametrize("form", ["auto", "reference", "blockwise", "fused", FOLDED])
def test_no_images_give_no_logits(form):
    model, variables = in_form(form, SMALL_MODELS["botnet_t3"], small_variables("botnet_t3", *SIZE))
    assert jax.jit(model.apply)(variables, jnp.zeros((0, *SIZE, 3))).shape == (0, 5)


@pytest.mark.parametrize(("name", "stride"), [("botnet50", 32), ("resnet50", 32)])
def test_the_smallest_image_is_the_networks_stride(name, stride):
    model = SMALL_MODELS[name]
    for side, allowed in ((stride, True), (stride - 1, False)):
        images = jnp.zeros((1, side, 80, 3))
        if allowed:
            shapes = jax.eval_shape(model.init, jax.random.key(0), images)
            assert jax.eval_shape(model.apply, shapes, images).shape == (1, 5)
        else:
            with pytest.raises(ConfigError, match=f"31 × 80.*at least {stride}"):
                model.init(jax.random.key(0), images)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [(80, 48), (48, 96), (64, 64)])
def test_another_resolution_than_that_of_the_variables(size, method):
    name = "botnet_t3"
    images = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    with pytest.raises(ConfigError) as error:
        jax.eval_shape(
            lambda v, x: SMALL_MODELS[name].apply(v, x, method=method),
            small_variables(name, *SIZE),
            images,
        )
    message = str(error.value)
    assert f"{size[0] // 16} × {size[1] // 16}" in message
    assert "3 × 5" in message
    assert "resize_relative_positions" in message


def test_the_strided_blocks_own_grid_is_checked_too():
    """64 × 80 and 48 × 80 give c5 the same grid, but c4, where the first block attends, another."""
    images = jax.ShapeDtypeStruct((1, 64, 80, 3), jnp.float32)
    with pytest.raises(ConfigError, match=r"4 × 5.*3 × 5"):
        jax.eval_shape(SMALL_MODELS["botnet50"].apply, small_variables("botnet50", *SIZE), images)


def test_a_resnet_reads_every_size():
    for size in ((32, 32), (45, 61), (96, 64)):
        images = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
        model = SMALL_MODELS["resnet50"]
        logits = jax.eval_shape(model.apply, small_variables("resnet50", *SIZE), images)
        assert logits.shape == (2, 5)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_numpy_images_of_any_float_are_read(dtype):
    name = "botnet_tiny"
    shape = (1, 3 * grid_stride(name), 5 * grid_stride(name), 3)
    variables = small_variables(name, *shape[1:3])
    logits = SMALL_MODELS[name].apply(variables, np.ones(shape, dtype))
    expected = apply(name)(variables, jnp.ones(shape))
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_other_image_channels():
    model = SMALL_MODELS["botnet_tiny"]
    grey = model.clone(config=model.config.replace(image_channels=1))
    shapes = jax.eval_shape(grey.init, jax.random.key(0), jnp.zeros((1, 24, 40, 1)))
    assert shapes["params"]["stem"]["layer_1"]["convolution"]["kernel"].shape[2] == 1
    with pytest.raises(ConfigError, match=r"3 channels.*expected 1"):
        jax.eval_shape(grey.apply, shapes, jax.ShapeDtypeStruct((1, 24, 40, 3), jnp.float32))


@pytest.mark.parametrize("config", ["botnet_t3", None, {"stage_sizes": [1, 1, 1, 1]}])
def test_a_model_of_something_else_than_a_config(config):
    with pytest.raises(ConfigError, match=r"config is a .*expected a BoTNetConfig.*get_config"):
        BoTNet(config=config).init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))

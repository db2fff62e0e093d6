"""Images a model cannot read: one clear line with what came, what is allowed, and the remedy."""

import jax
import jax.numpy as jnp
import pytest

from bottleneck_transformer_flax.errors import ConfigError
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.variants import get_config
from reference.forms import FOLDED, in_form
from reference.small_models import SMALL_MODELS, small_variables

pytestmark = pytest.mark.usefixtures("as_users_have_it")
METHODS = ["__call__", "pooled_features", "feature_maps", "attention_maps"]
SIZE = (48, 80)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("images", "words"),
    [
        ([jnp.zeros((48, 80, 3))], ["a list", "one array", "np.stack"]),
        (jnp.zeros((48, 80, 3)), ["(48, 80, 3)", "batch", "images[None]"]),
        (jnp.zeros((2, 48, 80, 3), jnp.uint8), ["uint8", "floating point", "normal"]),
        (jnp.zeros((2, 48, 80, 1)), ["1 channels", "expected 3", "image_channels"]),
        (jnp.zeros((2, 3, 48, 80)), ["(2, 3, 48, 80)", "80 channels", "last axis"]),
        (jnp.zeros((2, 48, 15, 3)), ["48 × 15", "at least 16", "enlarge"]),
    ],
)
def test_wrong_images(images, words, method):
    with pytest.raises(ConfigError) as error:
        SMALL_MODELS["botnet_t3"].apply(small_variables("botnet_t3", SIZE), images, method=method)
    message = str(error.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize("form", ["auto", "reference", "blockwise", "fused", FOLDED])
def test_no_images_give_no_logits(form):
    name = "botnet_s1_50"
    model, variables = in_form(form, SMALL_MODELS[name], small_variables(name, SIZE))
    assert jax.jit(model.apply)(variables, jnp.zeros((0, *SIZE, 3))).shape == (0, 5)


def test_the_smallest_image_is_the_networks_stride():
    model = SMALL_MODELS["botnet50"]
    init = lambda side: jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, side, 80, 3)))  # noqa: E731
    assert init(32)["params"]["head"]["bias"].shape == (5,)
    with pytest.raises(ConfigError, match=r"31 × 80.*at least 32"):
        init(31)


def test_a_resnet_reads_every_size():
    variables = small_variables("resnet50", SIZE)
    for size in ((32, 32), (45, 61), (96, 64)):
        images = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
        assert jax.eval_shape(SMALL_MODELS["resnet50"].apply, variables, images).shape == (2, 5)


def test_other_image_channels():
    model = SMALL_MODELS["botnet_tiny"]
    grey = model.clone(config=model.config.replace(image_channels=1))
    shapes = jax.eval_shape(grey.init, jax.random.key(0), jnp.zeros((1, 24, 40, 1)))
    assert shapes["params"]["stem"]["layer_1"]["convolution"]["kernel"].shape[2] == 1
    with pytest.raises(ConfigError, match=r"3 channels.*expected 1"):
        jax.eval_shape(grey.apply, shapes, jax.ShapeDtypeStruct((1, 24, 40, 3), jnp.float32))


@pytest.mark.parametrize("config", ["botnet_t3", None, {"stage_sizes": [1, 1, 1, 1]}])
def test_a_model_of_something_else_than_a_config(config):
    images = jnp.zeros((1, 32, 32, 3))
    with pytest.raises(ConfigError, match=r"config is a .*expected a BoTNetConfig.*get_config"):
        BoTNet(config=config).init(jax.random.key(0), images)
    with pytest.raises(ConfigError, match=r"execution is a .*expected an Execution"):
        BoTNet(get_config("botnet_tiny"), config).init(jax.random.key(0), images)

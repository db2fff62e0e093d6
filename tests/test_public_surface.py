"""What users import: lazily, and the README's own snippet as it stands."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import bottleneck_transformer_flax

FIXED = {
    "BoTNet",
    "BoTNetConfig",
    "get_config",
    "list_variants",
    "load_pretrained",
    "save_pretrained",
    "resize_relative_positions",
    "replace_head",
}

# From the design, without the two lines that show load_pretrained and replace_head.
SNIPPET = """
from bottleneck_transformer_flax import (
    BoTNet, BoTNetConfig,          # the README's own snippet, verbatim
    get_config, list_variants,     # get_config("botnet_t3", num_classes=10)
    load_pretrained, save_pretrained,
    resize_relative_positions, replace_head,
)
config = BoTNetConfig(stage_sizes=[3, 4, 23, 12], num_classes=1000, stride_one=True, se_ratio=0.0625)
model = BoTNet(config=config)
variables = model.init(rng, jnp.ones((1, 256, 256, 3), dtype=config.dtype))
logits = model.apply(variables, images)                       # inference by default; float32 (b, num_classes)
"""  # noqa: E501
USES = """
logits, state = model.apply(variables, images, train=True, mutable=["batch_stats"], rngs={"dropout": key})
maps = model.apply(variables, images, method="feature_maps")    # {"c2": …, "c5": …}, for dense prediction
attention = model.apply(variables, images, method="attention_maps")
"""  # noqa: E501


@pytest.fixture
def as_users_have_it():
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def run(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )


def test_importing_the_package_imports_no_framework():
    result = run(
        "import sys, bottleneck_transformer_flax as package\n"
        "dir(package); package.__all__\n"
        "heavy = ('jax', 'flax', 'numpy', 'optax', 'orbax', 'grain', 'matplotlib', 'torch')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    assert result.stdout.strip() == "[]", result.stdout + result.stderr


def test_the_record_of_preprocessing_imports_no_jax():
    result = run(
        "import sys\nfrom bottleneck_transformer_flax import Preprocessing\n"
        "print([name for name in ('jax', 'flax') if name in sys.modules])"
    )
    assert result.stdout.strip() == "[]", result.stdout + result.stderr


def test_the_model_imports_no_other_framework():
    result = run(
        "import sys\nfrom bottleneck_transformer_flax import BoTNet, load_pretrained\n"
        "print([name for name in ('torch', 'timm', 'tensorflow') if name in sys.modules])"
    )
    assert result.stdout.strip() == "[]", result.stdout + result.stderr


def test_the_fixed_names_are_there():
    assert set(bottleneck_transformer_flax.__all__) >= FIXED
    assert sorted(bottleneck_transformer_flax.__all__) == dir(bottleneck_transformer_flax)


@pytest.mark.parametrize("name", sorted({*FIXED, *bottleneck_transformer_flax.__all__}))
def test_every_public_name_resolves_and_is_documented(name):
    value = getattr(bottleneck_transformer_flax, name)
    assert value.__module__.startswith("bottleneck_transformer_flax.")
    assert value.__doc__
    assert getattr(bottleneck_transformer_flax, name) is value


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"bottleneck_transformer_flax.*'BotNet'"):
        bottleneck_transformer_flax.BotNet  # noqa: B018
    with pytest.raises(ImportError):
        from bottleneck_transformer_flax import resize_positions  # noqa: F401


@pytest.mark.usefixtures("as_users_have_it")
def test_the_snippet_runs_verbatim():
    """On real numbers, compiled once: the whole of T5's network, as the README shows it."""
    names = {
        "rng": jax.random.key(0),
        "images": jnp.asarray(np.random.default_rng(0).normal(size=(2, 256, 256, 3)), jnp.float32),
        "jnp": jnp,
    }
    exec(SNIPPET, names)
    logits = np.asarray(names["logits"])
    assert logits.shape == (2, 1000)
    assert logits.dtype == np.float32
    assert np.isfinite(logits).all()
    assert logits.std() > 0


@pytest.mark.usefixtures("as_users_have_it")
def test_its_other_uses_have_the_shapes_they_say():
    from bottleneck_transformer_flax import BoTNet, get_config

    model = BoTNet(config=get_config("botnet_t3", num_classes=10))
    images = jnp.ones((2, 64, 96, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), images)

    def uses(variables, images, key):
        names = {"model": model, "variables": variables, "images": images, "key": key}
        exec(USES, names)
        return names["logits"], names["state"], names["maps"], names["attention"]

    logits, state, maps, attention = jax.eval_shape(uses, variables, images, jax.random.key(1))
    assert (logits.shape, logits.dtype) == ((2, 10), jnp.float32)
    assert list(state) == ["batch_stats"]
    assert jax.tree.structure(state["batch_stats"]) == jax.tree.structure(variables["batch_stats"])
    assert maps["c2"].shape == (2, 16, 24, 256)
    assert maps["c5"].shape == (2, 4, 6, 2048)
    assert attention["c5/block_6"].shape == (2, 4, 4, 6, 4, 6)

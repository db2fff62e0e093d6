"""The configuration: what it accepts, what it refuses and with what words, and its JSON."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from bottleneck_transformer_flax.errors import ConfigError
from bottleneck_transformer_flax.models.config import BoTNetConfig
from bottleneck_transformer_flax.models.execution import Execution
from bottleneck_transformer_flax.models.variants import get_config, list_variants

STAGES = (3, 4, 6, 3)
FOUR = "four integers of at least 1"
ONE = "an integer of at least 1"
NAN = float("nan")
WRONG = {
    **dict.fromkeys(
        ("num_heads", "num_classes", "initial_filters", "image_channels", "se_divisor"),
        (ONE, 0, -4, 4.0, True, "4", None, NAN),
    ),
    **dict.fromkeys(
        ("head_dim", "query_key_dim", "group_size", "final_channels"),
        (f"{ONE} or None", 0, 128.0, False, "8"),
    ),
    **dict.fromkeys(
        ("bn_momentum", "dropout_rate", "stochastic_depth_rate"),
        ("[0, 1)", -0.1, 1.0, NAN, float("inf"), "no", True),
    ),
    "stage_sizes": (
        FOUR,
        (3, 4, 6),
        (),
        (3, 4, 6, 0),
        (3, 0, 6, 3),
        (-1, 4, 6, 3),
        (3, 4, 6, True),
        (False, 4, 6, 3),
        [3, 4, 6, "3"],
        "3463",
        50,
    ),
    "projection_factor": ("or four of them", 0, 0.25, (4, 4, 4), (4, 4, 4, 0), "4444", None),
    "se_ratio": ("[0, 1]", -0.1, 1.5, NAN, "0.1", None, True),
    "bn_epsilon": ("above 0", 0.0, -1e-5, NAN, float("inf")),
    "activation": ("relu, silu, gelu", "swish", "", None, ["relu"]),
    "stem": ("7x7, 3x3, tiered", "5x5", 7),
    "downsampling": ("strides, patches", "pool", None),
    "channel_attention_position": ("output, middle", "end", None),
    "se_activation": ("relu, silu, gelu, None", "swish", 3),
    "dtype": ("float32, bfloat16", "float16", "f4,,", "(-1,)f4", np.float64, None, 32, [3]),
    "block_pattern": ("four strings", "CCCA", ("C", "C", "A"), ("C", "C", "C", "D"), None),
}
SWITCHED = ("True or False", 1, "yes", None)


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(BoTNetConfig)])
def test_a_wrong_value_of_any_field_is_refused_with_what_came_and_what_is_allowed(field):
    allowed, *wrong = WRONG.get(field, SWITCHED)
    for value in wrong:
        with pytest.raises(ConfigError) as error:
            BoTNetConfig(**{"stage_sizes": STAGES, field: value})
        shown = tuple(value) if isinstance(value, list) and field == "stage_sizes" else value
        message = str(error.value)
        assert message.startswith(f"{field} is {shown!r}; expected ")
        assert allowed in message
        assert "\n" not in message
        with pytest.raises(ConfigError, match=field):
            BoTNetConfig(stage_sizes=STAGES).replace(**{field: value})


@pytest.mark.usefixtures("as_users_have_it")
def test_all_wrong_values_are_told_at_once():
    with pytest.raises(ConfigError) as error:
        BoTNetConfig(stage_sizes=(3, 4, 6), num_heads=0, se_ratio=-1.0, activation="swish")
    for field in ("stage_sizes", "num_heads", "se_ratio", "activation"):
        assert field in str(error.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"efficient_channel_attention": True}, ["se_ratio is 0.0625", "expected 0"]),
        ({"group_size": 24}, ["group_size is 24", "64 inner channels of c2", "a divisor"]),
        ({"head_dim": None, "num_heads": 3}, ["num_heads is 3", "512 inner channels of c5"]),
    ],
)
def test_values_that_do_not_go_together(changes, words):
    with pytest.raises(ConfigError) as error:
        BoTNetConfig(stage_sizes=STAGES, **changes)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(("name", "value"), dataclasses.asdict(Execution()).items())
def test_what_belongs_to_execution_is_refused_and_ignored_in_an_old_file(name, value):
    config = BoTNetConfig(stage_sizes=STAGES)
    for make in (BoTNetConfig, config.replace):
        with pytest.raises(ConfigError, match=rf"^{name} .*pass execution=Execution\(…\)"):
            make(stage_sizes=STAGES, **{name: value})
    assert BoTNetConfig.from_json(config.to_json() | {name: value}) == config


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("attention_backend", "xla", "auto, reference, blockwise, fused"),
        ("convolution_algorithm", "winograd", "auto, plain"),
        ("remat", "all", "True or False"),
        ("batch_norm_groups", 0, "at least 1"),
        ("frozen_through", "head", "stem, c2, c3, c4, c5, None"),
        ("frozen_batch_stats", 1, "True or False"),
    ],
)
def test_a_wrong_execution_names_the_field_what_came_and_what_is_allowed(field, value, allowed):
    with pytest.raises(ConfigError, match=rf"^{field} is {value!r}; expected .*{allowed}"):
        Execution(**{field: value})


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize(
    ("field", "written", "same"),
    [
        ("stage_sizes", [3, 4, 23, 12], (3, 4, 23, 12)),
        ("stage_sizes", np.array(STAGES), STAGES),
        ("block_pattern", ["C", "C", "CA", "A"], ("C", "C", "CA", "A")),
        ("se_ratio", 0, 0.0),
        ("se_ratio", np.float32(0.25), 0.25),
        ("num_classes", np.int64(7), 7),
        ("dtype", jnp.bfloat16, "bfloat16"),
        ("dtype", jnp.dtype(jnp.bfloat16), "bfloat16"),
    ],
)
def test_equal_settings_are_one_config_however_they_are_written(field, written, same):
    config, other = (BoTNetConfig(**{"stage_sizes": STAGES, field: x}) for x in (written, same))
    assert (config, hash(config)) == (other, hash(other))
    assert BoTNetConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_the_defaults_are_those_of_the_fixed_surface():
    config = BoTNetConfig(stage_sizes=STAGES)
    assert (config.num_classes, config.stride_one, config.se_ratio) == (1000, True, 0.0625)
    assert (config.num_heads, config.head_dim, config.initial_filters) == (4, 128, 64)
    assert (config.projection_factor, config.bn_momentum, config.bn_epsilon) == (4, 0.9, 1e-5)
    assert (config.dtype, config.activation) == (jnp.float32, "silu")
    assert config.attention_shortcut_activation and config.zero_residual_init
    assert config.dropout_rate == config.stochastic_depth_rate == 0


def test_a_config_is_frozen_and_keyword_only():
    config = BoTNetConfig(stage_sizes=STAGES)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.num_classes = 10  # type: ignore[misc]
    with pytest.raises(TypeError):
        BoTNetConfig(STAGES)  # type: ignore[misc,call-arg]


@pytest.mark.parametrize("name", list_variants())
def test_json_round_trip(name):
    for dtype in ("float32", "bfloat16"):
        config = get_config(name, dtype=dtype, num_classes=7)
        values = json.loads(json.dumps(config.to_json()))
        assert BoTNetConfig.from_json(values) == config
        assert values["dtype"] == dtype


def test_json_may_leave_out_what_has_a_default_but_no_stage_sizes():
    assert BoTNetConfig.from_json({"stage_sizes": [3, 4, 6, 3]}) == BoTNetConfig(stage_sizes=STAGES)
    with pytest.raises(ConfigError, match=r"no stage_sizes; expected four integers"):
        BoTNetConfig.from_json({"num_classes": 10})
    with pytest.raises(ConfigError, match="'num_head'; did you mean 'num_heads'"):
        BoTNetConfig.from_json({"stage_sizes": [3, 4, 6, 3], "num_head": 4})

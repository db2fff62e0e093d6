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
WRONG = [
    *[("stage_sizes", value, FOUR) for value in ((3, 4, 6), (3, 4, 6, 3, 1), ())],
    *[("stage_sizes", (3, 4, 6, last), FOUR) for last in (0, -1, 2.0, True, "3", None)],
    *[("stage_sizes", value, FOUR) for value in ("3463", 50, None, [[3], 4, 6, 3])],
    *[("num_heads", value, ONE) for value in (0, -4, 4.0, True, "4", None, float("nan"))],
    *[
        (field, value, f"{ONE} or None")
        for field in ("head_dim", "query_key_dim", "group_size", "final_channels")
        for value in (0, 128.0, False, "8")
    ],
    *[("se_divisor", value, ONE) for value in (0, 1.5, None)],
    *[("efficient_channel_attention", value, "True or False") for value in (0, None)],
    *[("scaled_positions", value, "True or False") for value in (1, "no")],
    *[("channel_attention_position", value, "output, middle") for value in ("end", None)],
    *[("se_activation", value, "relu, silu, gelu, None") for value in ("swish", 3)],
    *[("num_classes", value, ONE) for value in (0, -1, True, 10.5)],
    *[("initial_filters", value, ONE) for value in (0, True)],
    *[("projection_factor", value, "or four of them") for value in (0, 0.25, (4, 4, 4), "4444")],
    *[("projection_factor", value, "or four of them") for value in ((4, 4, 4, 0), None)],
    *[("image_channels", value, ONE) for value in (0, "3")],
    *[("se_ratio", value, "[0, 1]") for value in (-0.1, 1.5, float("nan"), "0.1", None, True)],
    *[("bn_momentum", value, "[0, 1)") for value in (-0.1, 1.0, 1.5, float("nan"))],
    *[("bn_epsilon", value, "above 0") for value in (0.0, -1e-5, float("nan"), float("inf"))],
    *[("dropout_rate", value, "[0, 1)") for value in (-0.1, 1.0, float("nan"), "no")],
    *[("stochastic_depth_rate", value, "[0, 1)") for value in (-0.1, 1.0, float("inf"), True)],
    *[("activation", value, "relu, silu, gelu") for value in ("swish", "", None, ["relu"])],
    *[("stem", value, "7x7, 3x3, tiered") for value in ("5x5", 7)],
    *[("dtype", value, "float32, bfloat16") for value in ("float16", "f4,,", "(-1,)f4")],
    *[("dtype", value, "float32, bfloat16") for value in (np.float64, None, 32, [3])],
    *[("stride_one", value, "True or False") for value in (1, "yes", None)],
    *[("stem_pool", value, "True or False") for value in (0, 2)],
    *[("attention_shortcut_activation", value, "True or False") for value in ("silu", None)],
    *[("folded_batch_norm", value, "True or False") for value in (2, None)],
    *[("zero_residual_init", value, "True or False") for value in (0, "no")],
    *[("block_pattern", value, "four strings") for value in ("CCCA", ("C", "C", "A"), None)],
    *[("block_pattern", ("C", "C", "C", last), "four strings") for last in ("B", "", "c", 1)],
]


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize(("field", "value", "allowed"), WRONG)
def test_a_wrong_value_names_the_field_what_came_and_what_is_allowed(field, value, allowed):
    values = {"stage_sizes": STAGES, field: value}
    with pytest.raises(ConfigError) as error:
        BoTNetConfig(**values)
    message = str(error.value)
    assert field in message
    shown = tuple(value) if isinstance(value, list) and field == "stage_sizes" else value
    assert repr(shown) in message
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


def test_every_field_is_tried_above():
    assert {field for field, _, _ in WRONG} == {f.name for f in dataclasses.fields(BoTNetConfig)}


MOVED = {
    "attention_backend": "reference",
    "remat": True,
    "batch_norm_groups": 2,
    "frozen_through": "c3",
    "frozen_batch_stats": True,
}


@pytest.mark.parametrize("name", MOVED)
@pytest.mark.parametrize("make", [BoTNetConfig, BoTNetConfig(stage_sizes=STAGES).replace])
def test_what_moved_to_execution_is_refused_with_its_new_home(make, name):
    with pytest.raises(ConfigError, match=rf"^{name} .*pass execution=Execution\(…\)"):
        make(stage_sizes=STAGES, **{name: MOVED[name]})


def test_what_moved_to_execution_is_ignored_in_an_old_file():
    config = BoTNetConfig(stage_sizes=STAGES)
    assert BoTNetConfig.from_json(config.to_json() | MOVED) == config


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


def test_lists_and_tuples_are_the_same_config():
    config = BoTNetConfig(stage_sizes=[3, 4, 23, 12], block_pattern=["C", "C", "CA", "A"])
    same = BoTNetConfig(stage_sizes=(3, 4, 23, 12), block_pattern=("C", "C", "CA", "A"))
    assert config == same
    assert hash(config) == hash(same)
    assert config.stage_sizes == (3, 4, 23, 12)
    assert isinstance(config.stage_sizes, tuple)


def test_whole_numbers_are_accepted_where_fractions_are():
    assert BoTNetConfig(stage_sizes=STAGES, se_ratio=0) == BoTNetConfig(
        stage_sizes=STAGES, se_ratio=0.0
    )


@pytest.mark.parametrize("dtype", ["bfloat16", jnp.bfloat16, jnp.dtype(jnp.bfloat16)])
def test_every_way_to_say_a_dtype_is_the_same_config(dtype):
    config = BoTNetConfig(stage_sizes=STAGES, dtype=dtype)
    same = BoTNetConfig(stage_sizes=STAGES, dtype="bfloat16")
    assert config == same
    assert hash(config) == hash(same)
    assert jnp.ones(1, dtype=config.dtype).dtype == jnp.bfloat16


def test_the_defaults_are_those_of_the_fixed_surface():
    config = BoTNetConfig(stage_sizes=STAGES)
    fixed = {
        "num_classes": 1000,
        "stride_one": True,
        "se_ratio": 0.0625,
        "num_heads": 4,
        "head_dim": 128,
        "initial_filters": 64,
        "projection_factor": 4,
        "bn_momentum": 0.9,
        "bn_epsilon": 1e-5,
        "dtype": jnp.float32,
        "activation": "silu",
        "attention_shortcut_activation": True,
        "zero_residual_init": True,
        "dropout_rate": 0,
        "stochastic_depth_rate": 0,
    }
    assert {name: getattr(config, name) for name in fixed} == fixed


def test_a_config_is_frozen_and_keyword_only():
    config = BoTNetConfig(stage_sizes=STAGES)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.num_classes = 10  # type: ignore[misc]
    with pytest.raises(TypeError):
        BoTNetConfig(STAGES)  # type: ignore[misc,call-arg]


@pytest.mark.parametrize("name", list_variants())
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_json_round_trip(name, dtype):
    config = get_config(name, dtype=dtype, num_classes=7)
    text = json.dumps(config.to_json())
    again = BoTNetConfig.from_json(json.loads(text))
    assert again == config
    assert hash(again) == hash(config)
    assert json.loads(text)["dtype"] == dtype


@pytest.mark.usefixtures("as_users_have_it")
def test_json_round_trip_of_numpy_numbers():
    config = BoTNetConfig(
        stage_sizes=np.array([3, 4, 6, 3]), num_classes=np.int64(7), se_ratio=np.float32(0.25)
    )
    again = BoTNetConfig.from_json(json.loads(json.dumps(config.to_json())))
    assert again == config


def test_an_unknown_json_key_suggests_the_nearest():
    values = BoTNetConfig(stage_sizes=STAGES).to_json() | {"num_head": 4}
    with pytest.raises(ConfigError, match=r"'num_head'.*did you mean 'num_heads'"):
        BoTNetConfig.from_json(values)


def test_json_without_stage_sizes_says_so():
    with pytest.raises(ConfigError, match=r"stage_sizes.*four integers"):
        BoTNetConfig.from_json({"num_classes": 10})


@pytest.mark.usefixtures("as_users_have_it")
def test_a_wrong_json_value_names_the_field():
    values = BoTNetConfig(stage_sizes=STAGES).to_json() | {"num_heads": "four"}
    with pytest.raises(ConfigError, match="num_heads is 'four'"):
        BoTNetConfig.from_json(values)


def test_json_may_leave_out_what_has_a_default():
    assert BoTNetConfig.from_json({"stage_sizes": [3, 4, 6, 3]}) == BoTNetConfig(stage_sizes=STAGES)

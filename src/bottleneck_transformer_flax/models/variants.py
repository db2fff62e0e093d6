"""The named models: their configs, their sources, and what was published about them.

For T3 to T7 the exact ``parameters`` are fewer than the paper's, which count squeeze-and-excite in
blocks that have none: see "The published parameter counts" in the README.
"""

from dataclasses import dataclass
from typing import Any

from bottleneck_transformer_flax.errors import ConfigError, unknown_name
from bottleneck_transformer_flax.models.config import BoTNetConfig

PAPER = "arXiv 2101.11605"
RESNET = "arXiv 1512.03385"
SENET = "arXiv 1709.01507"
TIMM = "timm 1.0, byoanet.py"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A named model.

    Attributes:
        name: name for ``get_config`` and the command line.
        config: the architecture.
        size: height and width of its images in pixels, for the counts below.
        source: publication or code that defines it.
        parameters: exact number of trainable parameters.
        multiply_adds: multiply-adds of all convolutions and matrix products for one image, as
            ``count_multiply_adds`` counts them.
        published_parameters: parameters in millions, as published.
        published_multiply_adds: multiply-adds for one image in billions, as published.
        published_top1: ImageNet top-1 accuracy in percent, as published, without weights.
    """

    name: str
    config: BoTNetConfig
    size: int
    source: str
    parameters: int
    multiply_adds: int
    published_parameters: float | None = None
    published_multiply_adds: float | None = None
    published_top1: float | None = None

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return (self.size, self.size)


def _scaled(*stage_sizes: int) -> BoTNetConfig:
    return BoTNetConfig(stage_sizes=stage_sizes)


def _botnet(*stage_sizes: int, stride_one: bool = False) -> BoTNetConfig:
    return BoTNetConfig(
        stage_sizes=stage_sizes,
        stride_one=stride_one,
        se_ratio=0.0,
        activation="relu",
    )


def _resnet(*stage_sizes: int, se_ratio: float = 0.0) -> BoTNetConfig:
    return BoTNetConfig(
        stage_sizes=stage_sizes,
        stride_one=False,
        se_ratio=se_ratio,
        activation="relu",
        block_pattern=("C", "C", "C", "C"),
    )


def _timm(*stage_sizes: int, block_pattern: tuple[str, ...], **changes: Any) -> BoTNetConfig:
    """One of timm's variants, which share these values."""
    shared: dict[str, Any] = {
        "stride_one": False,
        "se_ratio": 0.0,
        "stem": "tiered",
        "head_dim": None,
        "scaled_positions": False,
        "attention_shortcut_activation": False,
        "channel_attention_position": "middle",
        "se_activation": "relu",
        "se_divisor": 8,
    }
    return BoTNetConfig(stage_sizes=stage_sizes, block_pattern=block_pattern, **(shared | changes))


def _published(parameters: float, multiply_adds: float, top1: float) -> dict[str, Any]:
    return {
        "published_parameters": parameters,
        "published_multiply_adds": multiply_adds,
        "published_top1": top1,
    }


# fmt: off
_ROWS = (
    Variant(name="botnet50", config=_botnet(3, 4, 6, 3), size=224, source=PAPER,
            parameters=20_852_008, multiply_adds=4_021_346_304, **_published(20.8, 3.79, 78.3)),
    Variant(name="botnet101", config=_botnet(3, 4, 23, 3), size=224, source=PAPER,
            parameters=39_844_136, multiply_adds=7_733_567_488),
    Variant(name="botnet152", config=_botnet(3, 8, 36, 3), size=224, source=PAPER,
            parameters=55_487_784, multiply_adds=11_445_788_672),
    Variant(name="botnet200", config=_botnet(3, 24, 36, 3), size=224, source=PAPER,
            parameters=59_968_808, multiply_adds=14_939_643_904),
    Variant(name="botnet_s1_50", config=_botnet(3, 4, 6, 3, stride_one=True), size=224,
            source=PAPER, parameters=20_859_176, multiply_adds=5_410_217_984,
            **_published(20.8, 4.27, 79.1)),
    Variant(name="botnet_t3", config=_scaled(3, 4, 6, 6), size=224, source=PAPER,
            parameters=30_500_696, multiply_adds=7_233_150_976, **_published(33.5, 7.3, 81.7)),
    Variant(name="botnet_t4", config=_scaled(3, 4, 23, 6), size=224, source=PAPER,
            parameters=51_739_544, multiply_adds=10_947_600_384, **_published(54.7, 10.9, 82.8)),
    Variant(name="botnet_t5", config=_scaled(3, 4, 23, 12), size=256, source=PAPER,
            parameters=69_131_672, multiply_adds=19_251_830_784, **_published(75.1, 19.3, 83.5)),
    Variant(name="botnet_t6", config=_scaled(3, 4, 6, 12), size=320, source=PAPER,
            parameters=47_917_400, multiply_adds=23_227_310_080, **_published(53.9, 23.3, 84.0)),
    Variant(name="botnet_t7", config=_scaled(3, 4, 23, 12), size=384, source=PAPER,
            parameters=69_180_824, multiply_adds=45_631_643_648, **_published(75.1, 45.8, 84.7)),
    Variant(name="resnet50", config=_resnet(3, 4, 6, 3), size=224, source=RESNET,
            parameters=25_557_032, multiply_adds=4_089_184_256),
    Variant(name="resnet101", config=_resnet(3, 4, 23, 3), size=224, source=RESNET,
            parameters=44_549_160, multiply_adds=7_801_405_440),
    Variant(name="resnet152", config=_resnet(3, 8, 36, 3), size=224, source=RESNET,
            parameters=60_192_808, multiply_adds=11_513_626_624),
    Variant(name="seresnet50", config=_resnet(3, 4, 6, 3, se_ratio=1 / 16), size=224,
            source=SENET, parameters=28_088_024, multiply_adds=4_091_699_200),
    Variant(name="seresnet101", config=_resnet(3, 4, 23, 3, se_ratio=1 / 16), size=224,
            source=SENET, parameters=49_326_872, multiply_adds=7_806_148_608),
    Variant(name="seresnet152", config=_resnet(3, 8, 36, 3, se_ratio=1 / 16), size=224,
            source=SENET, parameters=66_821_848, multiply_adds=11_520_204_800),
    Variant(name="botnet_tiny", size=64, source="this project",
            parameters=472_486, multiply_adds=24_818_304,
            config=BoTNetConfig(stage_sizes=(1, 1, 1, 1), initial_filters=16, head_dim=32,
                                projection_factor=2, stem_pool=False, activation="relu",
                                zero_residual_init=False)),
    Variant(name="botnet_small", size=32, source="this project",
            parameters=569_993, multiply_adds=10_033_280,
            config=BoTNetConfig(stage_sizes=(1, 1, 2, 1), initial_filters=24, head_dim=32,
                                projection_factor=1, stem="3x3", zero_residual_init=False)),
    Variant(name="botnet11", size=32, source="this project",
            parameters=868_040, multiply_adds=56_846_336,
            config=BoTNetConfig(stage_sizes=(0, 1, 1, 1), initial_filters=32, head_dim=32,
                                projection_factor=1, stem="3x3", stem_pool=False,
                                downsampling="patches", block_pattern=("B", "B", "B", "A"),
                                se_ratio=0.0, zero_residual_init=False)),
    Variant(name="botnet26t_256", size=256, source=TIMM, parameters=12_488_672,
            multiply_adds=3_291_037_696,
            config=_timm(2, 2, 2, 2, block_pattern=("C", "C", "CA", "A"), activation="relu")),
    Variant(name="sebotnet33ts_256", size=256, source=TIMM, parameters=13_701_984,
            multiply_adds=3_852_328_960,
            config=_timm(2, 3, 3, 2, block_pattern=("C", "CCA", "CCA", "A"), stem_pool=False,
                         projection_factor=(4, 4, 4, 3), final_channels=1280, se_ratio=1 / 16)),
    Variant(name="botnet50ts_256", size=256, source=TIMM, parameters=22_742_688,
            multiply_adds=5_497_241_600,
            config=_timm(3, 4, 6, 3, block_pattern=("C", "CCCA", "CA", "CA"))),
    Variant(name="eca_botnext26ts_256", size=256, source=TIMM, parameters=10_593_301,
            multiply_adds=2_437_303_168,
            config=_timm(2, 2, 2, 2, block_pattern=("C", "C", "CA", "A"), group_size=16,
                         efficient_channel_attention=True, query_key_dim=16)),
)
# fmt: on
VARIANTS = {row.name: row for row in _ROWS}

# Fields in which models of one variant may differ.
_NOT_ARCHITECTURE = (
    "num_classes",
    "dtype",
    "bn_momentum",
    "zero_residual_init",
    "dropout_rate",
    "stochastic_depth_rate",
)


def list_variants() -> list[str]:
    """Names of all variants."""
    return list(VARIANTS)


def get_variant(name: str) -> Variant:
    """The variant of this name.

    Raises:
        ConfigError: for an unknown name, with the nearest name.
    """
    if not isinstance(name, str) or name not in VARIANTS:
        raise ConfigError(unknown_name("variant", name, VARIANTS))
    return VARIANTS[name]


def find_variant(config: BoTNetConfig) -> Variant | None:
    """The variant with this architecture, whatever its classes, dtype and dropout, or None."""
    for row in VARIANTS.values():
        same = {name: getattr(row.config, name) for name in _NOT_ARCHITECTURE}
        if config.replace(**same) == row.config:
            return row
    return None


def get_config(name: str, **changes: Any) -> BoTNetConfig:
    """Return the config of a variant, with some fields changed.

    ``get_config("botnet_t3", num_classes=10)`` is T3 for ten classes.

    Raises:
        ConfigError: for an unknown variant or field, with the nearest name, or a value not allowed.
    """
    return get_variant(name).config.replace(**changes)

"""The pretrained BoTNets there are, and what is said of their accuracy. No jax."""

from dataclasses import dataclass
from typing import Literal

from bottleneck_transformer_flax.preprocessing import Interpolation, Preprocessing

Project = Literal["timm", "distribuuuu"]


@dataclass(frozen=True, kw_only=True)
class PublicWeights:
    """Weights that anyone can have.

    Attributes:
        name: a repository of the Hugging Face hub, or the project and its name of the model.
        variant: the model that they are of.
        project: whose names and layouts the file has; None for this package's own.
        url: where they are described.
        licence: of the weights.
        data: what the accuracy was measured on.
        top1: accuracy in percent, as the project says.
        top5: the same among the best five.
        size: height and width of the input in pixels.
        crop: fraction of the resized image that the centre crop keeps.
        interpolation: the resampling filter.
        on_hub: whether ``name`` can be downloaded from the hub.
    """

    name: str
    variant: str
    project: Project | None
    url: str
    licence: str
    data: str = "ImageNet-1k"
    top1: float
    top5: float
    size: int
    crop: float
    interpolation: Interpolation = "bicubic"
    on_hub: bool = True

    @property
    def preprocessing(self) -> Preprocessing:
        """How images become the input that the weights were trained on."""
        return Preprocessing(
            size=(self.size, self.size), crop=self.crop, interpolation=self.interpolation
        )

    @property
    def command(self) -> str:
        """What to type to have them as a pretrained directory, or to use what is there."""
        if self.project is None:
            return f"botnet predict --checkpoint {self.name} IMAGE"
        source = self.name if self.on_hub else f"FILE --variant {self.variant}"
        return f"botnet import {source} --out {self.variant}"


def _timm(name: str, top1: float, top5: float, crop: float) -> PublicWeights:
    return PublicWeights(
        name=f"timm/{name}",
        variant=name.partition(".")[0],
        project="timm",
        url=f"https://huggingface.co/timm/{name}",
        licence="apache-2.0",
        top1=top1,
        top5=top5,
        size=256,
        crop=crop,
    )


PUBLIC_WEIGHTS = (
    PublicWeights(
        name="botnet_tiny",
        variant="botnet_tiny",
        project=None,
        url="https://arxiv.org/abs/1708.07747",
        licence="apache-2.0",
        data="Fashion-MNIST (1,000 test images)",
        top1=89.1,
        top5=99.7,
        size=28,
        crop=1.0,
        on_hub=False,
    ),
    _timm("botnet26t_256.c1_in1k", 79.256, 94.528, crop=0.95),
    _timm("sebotnet33ts_256.a1h_in1k", 81.156, 95.160, crop=0.94),
    _timm("eca_botnext26ts_256.c1_in1k", 79.262, 94.600, crop=0.95),
    PublicWeights(
        name="distribuuuu/botnet50",
        variant="botnet_s1_50",
        project="distribuuuu",
        url="https://github.com/BIGBALLON/distribuuuu",
        licence="mit",
        top1=77.604,
        top5=93.682,
        size=224,
        crop=0.875,
        # Their evaluation resizes with torchvision's default.
        interpolation="bilinear",
        on_hub=False,
    ),
)


def published_weights(variant: str, project: Project) -> PublicWeights | None:
    """The weights that a project has published of a variant, if there are some."""
    rows = (row for row in PUBLIC_WEIGHTS if (row.variant, row.project) == (variant, project))
    return next(rows, None)

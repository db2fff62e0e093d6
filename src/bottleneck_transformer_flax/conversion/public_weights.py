"""Published BoTNet weights, and the accuracy that their projects report. Imports no jax."""

from dataclasses import dataclass
from typing import Literal

from bottleneck_transformer_flax.preprocessing import Interpolation, Preprocessing

ProjectName = Literal["timm", "distribuuuu"]


@dataclass(frozen=True, kw_only=True)
class PublicWeights:
    """Weights that anyone can download.

    Attributes:
        name: repository of the Hugging Face hub, or the project and its name of the model.
        variant: variant that the weights belong to.
        project: project whose names and layouts the file has; None for this package's own.
        url: page that describes the weights.
        licence: licence of the weights.
        data: data set that the accuracy was measured on.
        top1: top-1 accuracy in percent, as the project reports it.
        top5: top-5 accuracy in percent, as the project reports it.
        size: height and width of the input in pixels.
        crop: fraction of the resized image that the centre crop keeps.
        interpolation: resampling filter.
        on_hub: whether ``name`` can be downloaded from the hub.
    """

    name: str
    variant: str
    project: ProjectName | None
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
        """Command that imports the weights, or that uses those of this package."""
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


def published_weights(variant: str, project: ProjectName) -> PublicWeights | None:
    """Find the weights of a variant that a project has published, if any."""
    rows = (row for row in PUBLIC_WEIGHTS if (row.variant, row.project) == (variant, project))
    return next(rows, None)

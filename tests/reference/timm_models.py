"""timm's own ByobNet: as the paper's T3, and as timm's variants."""

import torch

# timm imports torchvision, whose compiled operators are not in a CPU-only installation; timm
# needs none of them, only that their names are defined.
_library = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    _library.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import timm  # noqa: E402
from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg  # noqa: E402


class ActivatedShortcut(torch.nn.Module):
    """timm's BoT shortcut has no activation; the authors' has."""

    def __init__(self, shortcut: torch.nn.Module) -> None:
        super().__init__()
        self.inner = shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.silu(self.inner(x))


def timm_botnet(stage_sizes: tuple[int, ...], image_size: int, num_classes: int) -> ByobNet:
    """A scaled BoTNet (SE, SiLU, stride 1 in the last stage) from timm's parts."""
    strides = (1, 2, 2, 1)
    channels = (256, 512, 1024, 2048)
    blocks = tuple(
        ByoBlockCfg(
            type="bottle" if stage < 3 else "self_attn",
            d=stage_sizes[stage],
            c=channels[stage],
            s=strides[stage],
            gs=0,
            br=0.25,
            block_kwargs={"attn_last": True} if stage < 3 else {},
        )
        for stage in range(4)
    )
    network = ByobNet(
        ByoModelCfg(
            blocks=blocks,
            stem_chs=64,
            stem_type="7x7",
            stem_pool="maxpool",
            act_layer="silu",
            attn_layer="se",
            attn_kwargs={"rd_ratio": 1 / 16, "act_layer": torch.nn.SiLU},
            self_attn_layer="bottleneck",
            self_attn_kwargs={"dim_head": 128, "scale_pos_embed": True},
            fixed_input_size=True,
        ),
        num_classes=num_classes,
        img_size=image_size,
    )
    network.stages[3][0].shortcut = ActivatedShortcut(network.stages[3][0].shortcut)
    return network.eval()


def randomize(network: torch.nn.Module, seed: int) -> None:
    """Random parameters and batch statistics, of a scale that keeps activations near one."""
    generator = torch.Generator().manual_seed(seed)

    def normal(like: torch.Tensor, mean: float, std: float) -> torch.Tensor:
        return torch.randn(like.shape, generator=generator) * std + mean

    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var"):
                tensor.copy_(normal(tensor, 0, 0.3).exp())
            elif name.endswith("running_mean") or name.endswith("bias"):
                tensor.copy_(normal(tensor, 0, 0.2))
            elif tensor.ndim == 1:
                tensor.copy_(normal(tensor, 0.8, 0.2))
            elif tensor.ndim >= 2:
                fan_in = tensor[0].numel() if tensor.ndim == 4 else tensor.shape[-1]
                tensor.copy_(normal(tensor, 0, fan_in**-0.5))


def timm_model(name: str) -> ByobNet:
    """One of timm's own variants, by its name, without weights."""
    return timm.create_model(name).eval()

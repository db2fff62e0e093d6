"""timm's own ByobNet as the paper's T3, and its weights under this package's names."""

from typing import Any

import numpy as np
import torch

# timm imports torchvision, whose compiled operators are not in a CPU-only installation; timm
# needs none of them, only that their names are defined.
_library = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    _library.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

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


def to_variables(network: ByobNet, num_heads: int = 4) -> dict[str, Any]:
    """The network's parameters and statistics as this package's variables."""
    source = {k: v.numpy() for k, v in network.state_dict().items() if "num_batches" not in k}
    variables: dict[str, Any] = {"params": {}, "batch_stats": {}}

    def put(collection: str, path: str, value: np.ndarray) -> None:
        *parents, leaf = path.split("/")
        node = variables[collection]
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value

    def convolution(ours: str, theirs: str) -> None:
        kernel = source.pop(f"{theirs}.conv.weight")
        put("params", f"{ours}/convolution/kernel", kernel.transpose(2, 3, 1, 0))
        norm(f"{ours}/norm", f"{theirs}.bn")

    def norm(ours: str, theirs: str) -> None:
        put("params", f"{ours}/scale", source.pop(f"{theirs}.weight"))
        put("params", f"{ours}/bias", source.pop(f"{theirs}.bias"))
        put("batch_stats", f"{ours}/mean", source.pop(f"{theirs}.running_mean"))
        put("batch_stats", f"{ours}/var", source.pop(f"{theirs}.running_var"))

    convolution("stem/layer_1", "stem.conv1")
    for stage_index, stage in enumerate(network.stages):
        for block_index, block in enumerate(stage):
            theirs = f"stages.{stage_index}.{block_index}"
            ours = f"c{stage_index + 2}/block_{block_index + 1}"
            convolution(f"{ours}/reduce", f"{theirs}.conv1_1x1")
            convolution(f"{ours}/expand", f"{theirs}.conv3_1x1")
            if isinstance(block.shortcut, ActivatedShortcut):
                convolution(f"{ours}/shortcut", f"{theirs}.shortcut.inner")
            elif not isinstance(block.shortcut, torch.nn.Identity):
                convolution(f"{ours}/shortcut", f"{theirs}.shortcut")
            if stage_index < 3:
                convolution(f"{ours}/spatial", f"{theirs}.conv2_kxk")
                for layer, fc in (("reduce", "fc1"), ("expand", "fc2")):
                    kernel = source.pop(f"{theirs}.attn_last.{fc}.weight")[:, :, 0, 0].T
                    bias = source.pop(f"{theirs}.attn_last.{fc}.bias")
                    put("params", f"{ours}/squeeze_excite/{layer}/kernel", kernel)
                    put("params", f"{ours}/squeeze_excite/{layer}/bias", bias)
                continue
            projections = np.split(source.pop(f"{theirs}.self_attn.qkv.weight")[:, :, 0, 0], 3)
            for name, weight in zip(("query", "key", "value"), projections, strict=True):
                kernel = weight.T.reshape(weight.shape[1], num_heads, -1)
                put("params", f"{ours}/attention/{name}/kernel", kernel)
            for axis in ("height", "width"):
                table = source.pop(f"{theirs}.self_attn.pos_embed.{axis}_rel")
                put("params", f"{ours}/attention/relative_{axis}", table)
            norm(f"{ours}/attention_norm", f"{theirs}.post_attn")
    put("params", "head/kernel", source.pop("head.fc.weight").T)
    put("params", "head/bias", source.pop("head.fc.bias"))
    if source:
        raise ValueError(f"timm's weights not used: {sorted(source)}")
    return variables

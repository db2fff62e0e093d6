"""timm's own ByobNet, with random weights."""

import torch

from reference.timm_networks import ByobNet, timm

__all__ = ["randomize", "timm", "timm_model"]


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

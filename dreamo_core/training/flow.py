"""Flow matching (DreamO, Eq. 1): z_t = (1 − t) z_0 + t ε, and the transformer predicts the velocity ε − z_0."""

from __future__ import annotations

import torch
from einops import rearrange


def sample_times(
    count: int, generator: torch.Generator, mean: float = 0.0, std: float = 1.0, shift: float = 1.0
) -> torch.Tensor:
    """Logit-normal times, shifted: (count,) in (0, 1), float32 on the CPU.

    Args:
        mean, std: of the normal whose sigmoid is taken (Esser et al. 2024, section 3.1).
        shift: s in t → s t / (1 + (s − 1) t); above 1 moves mass to the noisy end, as FLUX.1 does for large pictures.
    """
    times = torch.sigmoid(mean + std * torch.randn(count, generator=generator))
    return shift * times / (1 + (shift - 1) * times)


def interpolate(clean: torch.Tensor, noise: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    """z_t for (b, …) latents and (b,) times."""
    times = times.to(clean).reshape(-1, *[1] * (clean.ndim - 1))
    return (1 - times) * clean + times * noise


def velocity(clean: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """The target: dz_t / dt."""
    return noise - clean


def pack(latent: torch.Tensor) -> torch.Tensor:
    """(b, c, h, w) latents to tokens (b, h/2 · w/2, 4 c), as the host and diffusers order them."""
    return rearrange(latent, "b c (h p) (w q) -> b (h w) (c p q)", p=2, q=2)


def unpack(tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Tokens back to (b, c, height, width) latents."""
    return rearrange(tokens, "b (h w) (c p q) -> b c (h p) (w q)", h=height // 2, w=width // 2, p=2, q=2)

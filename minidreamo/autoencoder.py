"""A small autoencoder for the mini world: FLUX.1's latent shape (8 × smaller, 16 channels) at a fraction of the cost.

The encoder is linear, one 8 × 8 block of pixels to 16 numbers (its leading principal components). The decoder is the
transpose of that plus what a small network at latent resolution adds from the neighbouring blocks.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

BLOCK = 8
CHANNELS = 16
SCALE, SHIFT = 0.3611, 0.1159
"""FLUX.1's latent format, as in `dreamo_core.flux`; this file is also loaded where that is not at hand."""


class Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(functional.silu(self.first(x)))


class BlockAutoencoder(nn.Module):
    """Pixels (b, 3, h, w) in −1 to 1 to latents (b, 16, h/8, w/8) and back; h and w are multiples of 8."""

    def __init__(self, width: int = 128, depth: int = 3):
        super().__init__()
        self.analysis = nn.Conv2d(3, CHANNELS, BLOCK, stride=BLOCK)
        self.synthesis = nn.Conv2d(CHANNELS, 3 * BLOCK**2, 1)
        self.refine = nn.Sequential(
            nn.Conv2d(CHANNELS, width, 3, padding=1),
            *[Residual(width) for _ in range(depth)],
            nn.Conv2d(width, 3 * BLOCK**2, 3, padding=1),
        )

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.analysis(pixels)

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        normal = (latent - SHIFT) * SCALE
        return functional.pixel_shuffle(self.synthesis(normal) + self.refine(normal), BLOCK)

    @torch.no_grad()
    def fit_linear(self, pixels: torch.Tensor) -> None:
        """Set the linear halves to the principal components of `pixels` (b, 3, h, w), and the network to add nothing.

        Each component is divided by the square root of its spread, so that fine detail is neither lost in the
        noise nor made as loud as the colours, and all together so that the mean variance is one.
        """
        blocks = functional.unfold(pixels, BLOCK, stride=BLOCK).mT.reshape(-1, 3 * BLOCK**2).double()
        mean = blocks.mean(0)
        variance, basis = torch.linalg.eigh((blocks - mean).mT @ (blocks - mean) / len(blocks))
        spread = variance.flip(0)[:CHANNELS].sqrt()
        basis = basis.flip(1)[:, :CHANNELS].mT
        gain = (spread * spread.mean()).rsqrt()
        forward = gain[:, None] * basis
        self.analysis.weight.copy_((forward / SCALE).reshape(CHANNELS, 3, BLOCK, BLOCK))
        self.analysis.bias.copy_(SHIFT - forward @ mean / SCALE)
        self.synthesis.weight.copy_((basis / gain[:, None]).mT[..., None, None])
        self.synthesis.bias.copy_(mean)
        nn.init.zeros_(self.refine[-1].weight)
        nn.init.zeros_(self.refine[-1].bias)

"""A vision transformer, pre-norm, after Dosovitskiy et al. (arXiv 2010.11929).

What SigLIP (arXiv 2303.15343) and DINOv2 with registers (arXiv 2304.07193, 2309.16588) differ in can be set; parameter
names are timm's. Layers come from `operations`: `torch.nn`, or the host's, which keep weights in another dtype or on
another device than they compute in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class ViTConfig:
    """Sizes of a vision transformer.

    Attributes:
        width, depth, heads, mlp: of its blocks; `mlp` is the hidden size.
        patch: side of a patch in pixels.
        grid: rows and columns of the stored positions.
        class_token: whether there is one; like the registers it has no position.
        registers: number of register tokens.
        layer_scale: whether both branches of a block are scaled by a learned vector.
        tanh: the approximate GELU in place of the exact one.
        eps: of the layer norms.
    """

    width: int
    depth: int
    heads: int
    mlp: int
    patch: int
    grid: tuple[int, int]
    class_token: bool = False
    registers: int = 0
    layer_scale: bool = False
    tanh: bool = False
    eps: float = 1e-6


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, operations: Any, **place: Any):
        super().__init__()
        self.heads = heads
        self.qkv = operations.Linear(width, 3 * width, **place)
        self.proj = operations.Linear(width, width, **place)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, n, c) to (b, n, c)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        out = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int, tanh: bool, operations: Any, **place: Any):
        super().__init__()
        self.fc1 = operations.Linear(width, hidden, **place)
        self.fc2 = operations.Linear(hidden, width, **place)
        self.gelu = nn.GELU(approximate="tanh" if tanh else "none")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    def __init__(self, width: int, **place: Any):
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(width, **place))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gamma.to(x)


class Block(nn.Module):
    def __init__(self, config: ViTConfig, operations: Any, **place: Any):
        super().__init__()
        self.norm1 = operations.LayerNorm(config.width, eps=config.eps, **place)
        self.attn = Attention(config.width, config.heads, operations, **place)
        self.ls1 = LayerScale(config.width, **place) if config.layer_scale else nn.Identity()
        self.norm2 = operations.LayerNorm(config.width, eps=config.eps, **place)
        self.mlp = Mlp(config.width, config.mlp, config.tanh, operations, **place)
        self.ls2 = LayerScale(config.width, **place) if config.layer_scale else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    def __init__(self, config: ViTConfig, operations: Any, **place: Any):
        super().__init__()
        self.proj = operations.Conv2d(3, config.width, kernel_size=config.patch, stride=config.patch, **place)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.proj(pixels)


def resized_positions(table: torch.Tensor, stored: tuple[int, int], grid: tuple[int, int]) -> torch.Tensor:
    """A position table for another grid: bicubic with antialiasing, computed in float32.

    Args:
        table: (1, h·w, c) of the `stored` grid.
        grid: rows and columns wanted.

    Returns:
        (1, rows · columns, c), in the table's own dtype.
    """
    if stored == grid:
        return table
    planes = table.float().unflatten(1, stored).movedim(-1, 1)
    planes = nn.functional.interpolate(planes, size=grid, mode="bicubic", antialias=True, align_corners=False)
    return planes.flatten(2).transpose(1, 2).to(table)


class ViT(nn.Module):
    """The blocks of a vision transformer; what comes behind them (norm, pooling) is not kept."""

    def __init__(self, config: ViTConfig, operations: Any = nn, dtype: Any = None, device: Any = None):
        super().__init__()
        self.config = config
        place = {"dtype": dtype, "device": device}
        rows, columns = config.grid
        empty = lambda count: nn.Parameter(torch.empty(1, count, config.width, **place))  # noqa: E731
        self.patch_embed = PatchEmbed(config, operations, **place)
        self.pos_embed = empty(rows * columns)
        if config.class_token:
            self.cls_token = empty(1)
        if config.registers:
            self.reg_token = empty(config.registers)
        self.blocks = nn.ModuleList(Block(config, operations, **place) for _ in range(config.depth))

    def tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        """Class token, registers and patches, as they enter the first block: (b, prefix + n, c)."""
        patches = self.patch_embed(pixels)
        grid = tuple(patches.shape[-2:])
        x = patches.flatten(2).transpose(1, 2)
        x = x + resized_positions(self.pos_embed, self.config.grid, grid).to(x)
        prefix = [getattr(self, name).to(x) for name in ("cls_token", "reg_token") if hasattr(self, name)]
        return torch.cat([*(token.expand(len(x), -1, -1) for token in prefix), x], dim=1)

    def forward(self, pixels: torch.Tensor, layers: Sequence[int]) -> list[torch.Tensor]:
        """Patch tokens as they leave some of the blocks, without the final norm.

        Args:
            pixels: (b, 3, h, w), normalised as this encoder wants it, h and w multiples of the patch.
            layers: which blocks, from 0, in rising order; those behind the last are not run.

        Returns:
            (b, n, c) for each of them, n = h·w / patch².
        """
        x, found = self.tokens(pixels), []
        prefix = int(self.config.class_token) + self.config.registers
        for at, block in enumerate(self.blocks[: max(layers) + 1]):
            x = block(x)
            if at in layers:
                found.append(x[:, prefix:])
        return found

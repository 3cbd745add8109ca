"""Where in the image a word is answered, and which image tokens look alike: without a full attention matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ..attention.response import mean_logits
from ..sequence.positions import Grid

CELLS = 16
"""Smoothing looks at most at CELLS × CELLS averaged patches of the image."""


def word_maps(
    q: torch.Tensor,
    k: torch.Tensor,
    image: tuple[int, int],
    prompt: tuple[int, int],
    words: Sequence[Sequence[int] | torch.Tensor],
) -> torch.Tensor:
    """How much more an image token looks at a word than at the prompt as a whole, averaged over heads.

    The "real word" of RealCustom++ (arXiv 2408.09744, section on adaptive mask guidance) in a cheap form: there the
    map is softmax(Q_img K_textᵀ) at the word's tokens; here the softmax's normaliser is replaced by the mean logit
    over the prompt, so that again one vector a head suffices. Tokens that others put in front of the prompt do not
    count: a USO style that looks like a subject must not hide its word.

    Args:
        q, k: (b, heads, l, d), after RoPE.
        image: first and one-past-last image token.
        prompt: first and one-past-last token of the prompt.
        words: text positions of each word, none empty; as (p,) int64 on the device nothing has to be sent there.

    Returns:
        (b, r, n) float32, in units of logits.
    """
    everything = k[:, :, prompt[0] : prompt[1]].mean(2)
    places = [torch.as_tensor(at, device=k.device) for at in words]
    means = torch.stack([k.index_select(2, at).mean(2) - everything for at in places], dim=2)
    return mean_logits(means, q[:, :, image[0] : image[1]])


def _pooled_grid(grid: Grid) -> Grid:
    return min(grid[0], CELLS), min(grid[1], CELLS)


def pool(values: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Average (…, n, c) over patches of the token grid: (…, p, c), p ≤ CELLS²."""
    lead, channels = values.shape[:-2], values.shape[-1]
    planes = values.reshape(-1, *grid, channels).movedim(-1, 1)
    pooled = torch.nn.functional.adaptive_avg_pool2d(planes, _pooled_grid(grid))
    return pooled.flatten(2).movedim(1, -1).reshape(*lead, -1, channels)


def similarity(q: torch.Tensor, k: torch.Tensor, image: tuple[int, int], grid: Grid) -> torch.Tensor:
    """Self-attention of image tokens towards averaged patches of the image, all heads taken as one.

    The cheap form of the self-attention map in RealCustom++'s Eq. 14: n × p with p ≤ 256, from one block.

    Args:
        q, k: (b, heads, l, d).
        image: first and one-past-last image token.
        grid: rows and columns of the image tokens.

    Returns:
        (b, n, p) float32, rows sum to 1.
    """
    queries = q[:, :, image[0] : image[1]].transpose(1, 2).flatten(2)
    keys = pool(k[:, :, image[0] : image[1]].transpose(1, 2).flatten(2), grid)
    return ((queries @ keys.transpose(1, 2)).float() / math.sqrt(queries.shape[-1])).softmax(-1)

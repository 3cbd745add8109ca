"""Response maps: how much image tokens are looked at (DreamO, Eq. 2), as matrix-vector products.

No map ever needs a full attention matrix: averaging over a reference's queries first gives one vector a head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


def response_maps(
    q: torch.Tensor, k: torch.Tensor, image: tuple[int, int], references: Sequence[tuple[int, int]]
) -> torch.Tensor:
    """M_i = mean over the tokens of reference i of Q_cond,i K_imgᵀ / √d, averaged over heads (DreamO, Eq. 2).

    The mean over queries is taken first; the product is linear, so it is the same.

    Args:
        q, k: (b, heads, l, d), as attention sees them: normed and rotated.
        image: first and one-past-last image token among the keys.
        references: first and one-past-last token of each reference among the queries.

    Returns:
        (b, r, n), float32 or wider, in units of logits.
    """
    means = torch.stack([q[:, :, start:end].mean(2) for start, end in references], dim=2)
    return mean_logits(means, k[:, :, image[0] : image[1]])


def mean_logits(vectors: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Mean over heads of vectors · tokens / √d: (b, heads, r, d) and (b, heads, n, d) to (b, r, n)."""
    logits = vectors @ tokens.transpose(-1, -2)
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).mean(1) / math.sqrt(tokens.shape[-1])

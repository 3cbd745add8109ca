"""Attention with a bias on the keys of references.

Query q's logits for all keys of reference i are raised by a_i(q). With n references that bias has rank n, so it
needs no mask: with one-hot columns appended to the keys and a_i(q) appended to the queries, the fused kernel's own
dot product adds it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

NEVER = -1000.0
"""The bias that stands for log 0: exp of it is 0 in every dtype, and scaled it still fits float16."""

_COLUMN_MULTIPLE = 8
"""Fused kernels want head sizes in steps of eight."""

_WIDEST_HEAD = 256
"""No fused kernel takes wider heads."""

FORMS = ("auto", "low-rank", "dense")


def chosen_form(form: str, dim: int, references: int) -> str:
    """ "low-rank" or "dense": what `form`, one of `FORMS`, means for heads of size `dim`.

    Low-rank keeps the kernel fused and needs no memory for a mask, so "auto" is dense only where its heads would be
    wider than kernels take.
    """
    if form != "auto":
        return form
    return "low-rank" if dim + _extra_columns(references) <= _WIDEST_HEAD else "dense"


def _extra_columns(references: int) -> int:
    return -(-references // _COLUMN_MULTIPLE) * _COLUMN_MULTIPLE


def log_strength(strength: float) -> float:
    """log(strength), with 0 mapped to `NEVER`; strength must be ≥ 0."""
    return max(math.log(strength), NEVER) if strength > 0 else NEVER


def key_columns(length: int, spans: Sequence[tuple[int, int]], like: torch.Tensor) -> torch.Tensor:
    """One-hot columns that say which reference a key belongs to: (length, n), zero for all other keys.

    Args:
        length: number of tokens in the sequence.
        spans: first and one-past-last token of each reference.
        like: gives dtype and device.
    """
    columns = torch.zeros(length, len(spans), dtype=like.dtype, device=like.device)
    for i, (start, end) in enumerate(spans):
        columns[start:end, i] = 1
    return columns


def low_rank_attention(
    attention: Callable[..., torch.Tensor],
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    query_bias: torch.Tensor,
    key_groups: torch.Tensor,
) -> torch.Tensor:
    """softmax(q kᵀ/√d + query_bias key_groupsᵀ) v, through extra columns on q and k and one call of `attention`.

    Args:
        attention: called as attention(q, k, v), scales by 1/√(last dimension), returns (b, l, heads · last dimension).
        q: (b, heads, l, d).
        k, v: (b, heads, m, d).
        query_bias: (b or 1, l, n), natural-log units.
        key_groups: (m, n), as from `key_columns`.

    Returns:
        (b, l, heads · d)
    """
    batch, heads, length, dim = q.shape
    extra = _extra_columns(query_bias.shape[-1])
    padding = extra - query_bias.shape[-1]
    # The kernel will divide by √(d + extra); what q already had must end up divided by √d.
    wide_scale = math.sqrt(dim + extra)
    bias = torch.nn.functional.pad(query_bias.to(q) * wide_scale, (0, padding))
    groups = torch.nn.functional.pad(key_groups.to(k), (0, padding))
    q = torch.cat((q * (wide_scale / math.sqrt(dim)), bias.unsqueeze(1).expand(batch, heads, -1, -1)), dim=-1)
    k = torch.cat((k, groups.expand(batch, heads, -1, -1)), dim=-1)
    # Values are widened too: most kernels want one head size for all three.
    out = attention(q, k, torch.nn.functional.pad(v, (0, extra)))
    return out.reshape(batch, length, heads, dim + extra)[..., :dim].reshape(batch, length, heads * dim)


def widened_mask(mask: torch.Tensor, queries: int, keys: int) -> torch.Tensor:
    """A mask made for text and image, with references allowed behind them: (…, queries, keys).

    Args:
        mask: (…, l, m) additive or boolean, m ≤ keys; one that broadcasts over queries (l = 1) still does.
    """
    rows = 0 if mask.shape[-2] == 1 else max(queries - mask.shape[-2], 0)
    columns = max(keys - mask.shape[-1], 0)
    if rows == columns == 0:
        return mask
    return torch.nn.functional.pad(mask, (0, columns, 0, rows), value=float(mask.dtype == torch.bool))


def dense_bias(query_bias: torch.Tensor, key_groups: torch.Tensor) -> torch.Tensor:
    """The same bias as an additive mask: (b or 1, 1, l, m)."""
    return (query_bias @ key_groups.to(query_bias).T).unsqueeze(1)


def dense_attention(
    attention: Callable[..., torch.Tensor],
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    query_bias: torch.Tensor,
    key_groups: torch.Tensor,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """What `low_rank_attention` gives, through an additive mask: attention(q, k, v, mask).

    Args:
        mask: one that is there already, additive or boolean, and broadcasts to (b, heads, l, m).
        Others as for `low_rank_attention`.
    """
    bias = dense_bias(query_bias, key_groups).to(q)
    if mask is not None:
        mask = mask[None] if mask.ndim == 2 else mask
        mask = mask.unsqueeze(1) if mask.ndim == 3 else mask
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, -torch.inf)
        bias = bias + mask
    return attention(q, k, v, bias)

"""Pruning, slowly: which tokens stay by looking at each one."""

import torch
from dreamo_routed.dreamo_core.pictures.picture import Picture
from dreamo_routed.dreamo_core.sequence.reference import Reference
from support import (
    make_reference,
)


def masked_reference(keep, seed=0, **values):
    """A reference whose subject fills the true tokens of `keep` (rows, columns) and nothing else."""
    plain = make_reference(keep.shape[0] * 2, keep.shape[1] * 2, seed, **values)
    pixels = keep.float().repeat_interleave(16, 0).repeat_interleave(16, 1)[None]
    return Reference(Picture(plain.picture.pixels, pixels), plain.latent, "subject", **values)


def token_mask(rows, columns, share=0.4, seed=0):
    return torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed)) < share


def slow_kept(mask, margin, keep_ratio):
    """Token by token, from the words of the documentation."""
    rows, columns = mask.shape
    subject = [(r, c) for r in range(rows) for c in range(columns) if mask[r, c]]
    if not subject:
        return set(range(rows * columns))
    near, rest = set(), []
    for r in range(rows):
        for c in range(columns):
            if any(abs(r - a) <= margin and abs(c - b) <= margin for a, b in subject):
                near.add(r * columns + c)
            else:
                rest.append(r * columns + c)
    stay = {rest[n] for n in range(len(rest)) if int((n + 1) * keep_ratio + 1e-9) > int(n * keep_ratio + 1e-9)}
    return near | stay

"""Reuse of keys and values, slowly: a full run each step, with kept ones put in by hand."""

import pytest
import torch
from support import (
    make_model,
)


def in_sequence(calls):
    """Whether each recorded model call had reference tokens."""
    return [bool(call.ref_latents) for call in calls]


TABLES = (make_model().embeddings.task, make_model().embeddings.index)


def slow_reuse(flux, call, kept, tables=TABLES, style=None):
    """One reuse step, written out: text and image tokens alone, plain softmax over their own and the kept keys."""
    import comfy.ldm.flux.layers as layers
    from comfy.ldm.flux.math import apply_rope

    from oracles.slow import slow_flux

    kept = iter(kept)

    def attention(q, k, v, pe, **_):
        q, k = apply_rope(q, k, pe)
        old_k, old_v = next(kept)
        k, v = torch.cat((k, old_k), 2), torch.cat((v, old_v), 2)
        weights = (q @ k.transpose(2, 3) / q.shape[3] ** 0.5).softmax(-1)
        return (weights @ v).transpose(1, 2).flatten(2)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "attention", attention)
        return slow_flux(
            flux.model.diffusion_model, call.x, call.timestep, call.context, call.y, call.guidance, (), *tables, style
        )  # fmt: skip


def capture_keys(flux, call, latents, tables=TABLES, style=None):
    """Keys and values of the references in each block of one full step, from the slow twin."""
    import comfy.ldm.flux.layers as layers
    from comfy.ldm.flux.math import apply_rope, attention

    from oracles.slow import slow_flux

    kept, tokens = [], sum(r.shape[2] * r.shape[3] // 4 for r in latents)

    def watching(q, k, v, pe, **options):
        kept.append((apply_rope(q, k, pe)[1][:, :, -tokens:].clone(), v[:, :, -tokens:].clone()))
        return attention(q, k, v, pe, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "attention", watching)
        slow_flux(
            flux.model.diffusion_model, call.x, call.timestep, call.context, call.y, call.guidance, latents, *tables,
            style,
        )  # fmt: skip
    return kept

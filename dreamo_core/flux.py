"""Names and sizes of FLUX.1: its latent format, how many references there are rows for, and its linear layers.

Layers go by their original names (also the host's) and by diffusers'. Where the original has one fused layer,
diffusers has several; they are listed in the order of its rows.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import TypeVar

import torch

Value = TypeVar("Value")

_QK_NORM = re.compile(r"((?:query|key)_norm\.)(scale|weight)$")

LATENT_SCALE, LATENT_SHIFT = 0.3611, 0.1159
"""The transformer sees (latent − LATENT_SHIFT) · LATENT_SCALE; when sampling, the host does that."""

PIXELS = 8
"""A side of the latent is an eighth of the picture's."""

MAX_REFERENCES = 9
"""The released model has ten index rows; reference i uses row i, counted from 1, and row 0 is unused."""

DOUBLE = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "img_attn.proj": ("attn.to_out.0",),
    "txt_attn.proj": ("attn.to_add_out",),
    "img_mod.lin": ("norm1.linear",),
    "txt_mod.lin": ("norm1_context.linear",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "txt_mlp.0": ("ff_context.net.0.proj",),
    "txt_mlp.2": ("ff_context.net.2",),
}
"""Layers of a double block, and of what diffusers calls `transformer_blocks`."""

SINGLE = {
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": ("proj_out",),
    "modulation.lin": ("norm.linear",),
}
"""Layers of a single block, and of what diffusers calls `single_transformer_blocks`."""

TOP = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "final_layer.linear": "proj_out",
}
"""Layers outside of the blocks."""

SWAPPED_ORIGINAL, SWAPPED_DIFFUSERS = "final_layer.adaLN_modulation.1", "norm_out.linear"
"""The only layer whose rows differ: the original has (shift, scale), diffusers has (scale, shift)."""


def swap_halves(rows: torch.Tensor) -> torch.Tensor:
    """(2n, …) with its second half in front: from one order of (shift, scale) to the other, either way."""
    return torch.cat(rows.chunk(2)[::-1])


def released_names(state: Mapping[str, Value]) -> dict[str, Value]:
    """The state dict of a host's FLUX.1 under the names that released files have.

    Released files call the weight of a norm of queries or keys `scale`. Hosts up to 0.27 do too; newer ones call it
    `weight`.
    """
    return {_QK_NORM.sub(r"\1scale", name): value for name, value in state.items()}


def host_names(state: Mapping[str, Value], host: Collection[str]) -> dict[str, Value]:
    """The other way: a state dict under released names as a host's class wants it, whose parameters are `host`.

    Either name is taken. What the class has under neither keeps its name, for `load_state_dict` to report.
    """
    ours = released_names({name: name for name in host})
    return {ours.get(name, name): value for name, value in released_names(state).items()}

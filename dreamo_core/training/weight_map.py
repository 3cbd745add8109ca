"""FLUX.1 weights between the host's layout (BFL keys) and diffusers'.

Two things differ beside names: the host fuses query, key, value (and, in single blocks, the first MLP layer) into one
matrix, and the final layer's modulation has shift before scale where diffusers has scale before shift.
"""

from __future__ import annotations

import re

import torch

from ..flux import DOUBLE, SINGLE, SWAPPED_DIFFUSERS, SWAPPED_ORIGINAL, TOP, released_names, swap_halves

State = dict[str, torch.Tensor]

_DOUBLE_NORMS = {
    "img_attn.norm.query_norm": "attn.norm_q",
    "img_attn.norm.key_norm": "attn.norm_k",
    "txt_attn.norm.query_norm": "attn.norm_added_q",
    "txt_attn.norm.key_norm": "attn.norm_added_k",
}
_SINGLE_NORMS = {"norm.query_norm": "attn.norm_q", "norm.key_norm": "attn.norm_k"}


def _blocks(state: State, pattern: str) -> int:
    numbers = [int(match[1]) for key in state if (match := re.match(pattern, key))]
    return max(numbers, default=-1) + 1


def _pairs(double: int, single: int):
    """(host module, diffusers modules, kind) for every module that has weights."""
    for host, other in TOP.items():
        yield host, (other,), "plain"
    yield SWAPPED_ORIGINAL, (SWAPPED_DIFFUSERS,), "swapped"
    for count, ours, theirs, layers, norms in (
        (double, "double_blocks", "transformer_blocks", DOUBLE, _DOUBLE_NORMS),
        (single, "single_blocks", "single_transformer_blocks", SINGLE, _SINGLE_NORMS),
    ):
        for n in range(count):
            for host, others in layers.items():
                kind = "fused" if len(others) > 1 else "plain"
                yield f"{ours}.{n}.{host}", tuple(f"{theirs}.{n}.{other}" for other in others), kind
            for host, other in norms.items():
                yield f"{ours}.{n}.{host}", (f"{theirs}.{n}.{other}",), "norm"


def to_host(state: State) -> State:
    """Diffusers' state dict of a FluxTransformer2DModel in the host's layout, under the names of released files.

    Raises:
        ValueError: a key has no counterpart.
    """
    left = dict(state)
    out: State = {}
    double = _blocks(state, r"transformer_blocks\.(\d+)\.")
    for host, others, kind in _pairs(double, _blocks(state, r"single_transformer_blocks\.(\d+)\.")):
        for part in ("weight", "bias"):
            tensors = [left.pop(f"{other}.{part}") for other in others if f"{other}.{part}" in left]
            if not tensors:
                continue
            tensor = torch.cat(tensors) if kind == "fused" else tensors[0]
            name = f"{host}.scale" if kind == "norm" else f"{host}.{part}"
            out[name] = swap_halves(tensor) if kind == "swapped" else tensor
    if left:
        raise ValueError(f"Not weights of a FLUX.1 transformer in diffusers' layout: {sorted(left)[:3]} have no place.")
    return out


_FUSED = {"attn.to_q": "attn.to_qkv", "attn.add_q_proj": "attn.to_added_qkv"}
"""What diffusers calls a fused projection, by the first of its parts."""


def _fused(others: tuple[str, ...]) -> tuple[str, ...]:
    """Modules of query, key and value as one, and what follows them."""
    first = next(name for name in _FUSED if others[0].endswith(name))
    return others[0].removesuffix(first) + _FUSED[first], *others[3:]


def to_diffusers(state: State, fused: bool = False) -> State:
    """The host's layout as a state dict of diffusers' FluxTransformer2DModel; views of the given tensors.

    Args:
        state: under the names of released files or of any host; a prefix such as `model.diffusion_model.` must be gone.
        fused: for a model whose query, key and value projections are fused, as the host's are.

    Raises:
        ValueError: a key has no counterpart.
    """
    left = released_names(state)
    out: State = {}
    hidden = state["img_in.weight"].shape[0]
    double = _blocks(state, r"double_blocks\.(\d+)\.")
    for host, others, kind in _pairs(double, _blocks(state, r"single_blocks\.(\d+)\.")):
        if kind == "norm":
            if f"{host}.scale" in left:
                out[f"{others[0]}.weight"] = left.pop(f"{host}.scale")
            continue
        for part in ("weight", "bias"):
            tensor = left.pop(f"{host}.{part}", None)
            if tensor is None:
                continue
            if kind == "fused":
                sizes = [3 * hidden] if fused else [hidden] * 3
                sizes += [len(tensor) - 3 * hidden] if len(others) == 4 else []
                names = _fused(others) if fused else others
                out.update({f"{o}.{part}": piece for o, piece in zip(names, tensor.split(sizes), strict=True)})
            else:
                out[f"{others[0]}.{part}"] = swap_halves(tensor) if kind == "swapped" else tensor
    if left:
        raise ValueError(f"Not weights of a FLUX.1 transformer in the host's layout: {sorted(left)[:3]} have no place.")
    return out

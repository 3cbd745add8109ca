"""The model that is trained: a frozen FLUX.1 transformer with DreamO's LoRA, tables and reference tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel
from diffusers.models.embeddings import apply_rotary_emb
from peft import LoraConfig, inject_adapter_in_model
from safetensors import safe_open
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from ..attention.response import response_maps
from ..flux import MAX_REFERENCES, released_names
from ..sequence.embeddings import PLACEHOLDER_ROWS, Embeddings
from ..sequence.positions import diagonal_offsets, grid_ids, token_grid
from . import flow, losses, weight_map

TARGETS = (
    r"transformer_blocks\.\d+\.attn\.(to_qkv|to_added_qkv|to_out\.0|to_add_out)"
    r"|single_transformer_blocks\.\d+\.(attn\.to_qkv|proj_out)"
)
"""What the released LoRA covers: both streams' attention of a double block, attention and linear2 of a single one."""


@dataclass
class Probe:
    """What the losses need from inside attention, for one forward; sequence is `[text, image, references…]`.

    Attributes:
        text, image: number of tokens.
        spans: first and one-past-last token of each reference in the whole sequence.
        positions: (b, r) text position of each reference's placeholder, −1 where the prompt has none.
        open: maps are kept only in the forward itself, not when a checkpointed block is computed again.
        maps: per probed block (b, r, n), Eq. 2.
        mistakes: per probed block (b, r), Eq. 4.
    """

    text: int
    image: int
    spans: Sequence[tuple[int, int]]
    positions: torch.Tensor
    open: bool = True
    maps: list[torch.Tensor] = field(default_factory=list)
    mistakes: list[torch.Tensor] = field(default_factory=list)

    def read(self, queries: torch.Tensor, keys: torch.Tensor) -> None:
        """Take what is needed from (b, l, h, d) queries and keys."""
        image = (self.text, self.text + self.image)
        maps = response_maps(queries.transpose(1, 2), keys.transpose(1, 2), image, self.spans)
        rows = torch.arange(len(keys), device=keys.device)[:, None]
        present = self.positions >= 0
        holders = keys[rows, self.positions.clamp(min=0)]
        mistakes = torch.stack(
            [losses.placeholder_errors(queries[:, a:b], holders, present, n) for n, (a, b) in enumerate(self.spans)], 1
        )
        if self.open:
            self.maps.append(maps)
            self.mistakes.append(mistakes)


class Processor:
    """FLUX.1's attention on fused projections; shows queries and keys to the probe where `probed`."""

    def __init__(self, probed: bool):
        self.probed = probed

    def __call__(
        self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, image_rotary_emb=None, probe=None
    ):
        def heads(tensor):
            return tensor.unflatten(-1, (-1, attn.head_dim))

        query, key, value = map(heads, attn.to_qkv(hidden_states).chunk(3, -1))
        query, key = attn.norm_q(query), attn.norm_k(key)
        if encoder_hidden_states is not None:
            text = [heads(part) for part in attn.to_added_qkv(encoder_hidden_states).chunk(3, -1)]
            query = torch.cat([attn.norm_added_q(text[0]), query], 1)
            key = torch.cat([attn.norm_added_k(text[1]), key], 1)
            value = torch.cat([text[2], value], 1)
        query = apply_rotary_emb(query, image_rotary_emb, sequence_dim=1)
        key = apply_rotary_emb(key, image_rotary_emb, sequence_dim=1)
        if self.probed and probe is not None:
            probe.read(query, key)
        out = scaled_dot_product_attention(*(part.transpose(1, 2) for part in (query, key, value)))
        out = out.transpose(1, 2).flatten(2).to(value.dtype)
        if encoder_hidden_states is None:
            return out
        length = encoder_hidden_states.shape[1]
        return attn.to_out[0](out[:, length:]), attn.to_add_out(out[:, :length])


@dataclass(frozen=True)
class Prediction:
    """What one forward gives.

    Attributes:
        velocity: (b, 16, h, w).
        maps, mistakes: as `Probe`, stacked over the k probed blocks: (k, b, r, n) and (k, b, r).
    """

    velocity: torch.Tensor
    maps: torch.Tensor | None
    mistakes: torch.Tensor | None


class DreamOTransformer(nn.Module):
    """A FLUX.1 transformer that takes references.

    Args:
        transformer: of diffusers; its attention is fused in place.
        rank: of the LoRA; 0 for none.
        probed: numbers of the blocks that Eq. 3 and 4 look into, double blocks first; None for all.
        placeholder_width: of T5's input embeddings.
        condition_embedding: whether task and index embeddings are added and trained.
    """

    def __init__(
        self,
        transformer: FluxTransformer2DModel,
        rank: int,
        probed: Sequence[int] | None = None,
        placeholder_width: int = 4096,
        condition_embedding: bool = True,
    ):
        super().__init__()
        transformer.requires_grad_(False)
        blocks = [*transformer.transformer_blocks, *transformer.single_transformer_blocks]
        for number, block in enumerate(blocks):
            fuse(block.attn)
            block.attn.set_processor(Processor(probed is None or number in probed))
        if rank:
            inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS), transformer)
            # peft makes them in the base's dtype; in bf16 a step of Adam would round away.
            for parameter in transformer.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.float()
        self.transformer = transformer
        width = transformer.inner_dim
        # Zero at first, so that training starts from the base; the index rows differ or they could never part.
        self.task = nn.Parameter(torch.zeros(2, width), requires_grad=condition_embedding)
        index = 0.02 * torch.randn(MAX_REFERENCES + 1, width) * condition_embedding
        self.index = nn.Parameter(index, requires_grad=condition_embedding)
        self.placeholders = nn.Parameter(torch.randn(PLACEHOLDER_ROWS, placeholder_width))

    @property
    def embeddings(self) -> Embeddings:
        return Embeddings(self.task, self.index, self.placeholders)

    def forward(
        self,
        noisy: torch.Tensor,
        times: torch.Tensor,
        text: torch.Tensor,
        pooled: torch.Tensor,
        guidance: torch.Tensor,
        references: Sequence[torch.Tensor] = (),
        kept: Sequence[torch.Tensor] | None = None,
        positions: torch.Tensor | None = None,
    ) -> Prediction:
        """Velocity, and what the losses look at.

        Args:
            noisy: (b, 16, h, w) latents.
            times: (b,) in [0, 1].
            text, pooled: (b, t, c) of T5, (b, c) of CLIP-L.
            guidance: (b,) the distilled guidance.
            references: each (b, 16, h_i, w_i), as the transformer sees latents.
            kept: for each reference the numbers of its tokens that stay, None for all.
            positions: (b, r) text position of each placeholder, −1 for none; without it nothing is probed.
        """
        batch, _, height, width = noisy.shape
        image = token_grid(height, width)
        grids = [token_grid(*reference.shape[-2:]) for reference in references]
        tokens, ids = [flow.pack(noisy)], [grid_ids(image)]
        for number, (reference, grid, offset) in enumerate(
            zip(references, grids, diagonal_offsets(image, grids), strict=True)
        ):
            chosen = slice(None) if kept is None else kept[number]
            tokens.append(flow.pack(reference)[:, chosen])
            ids.append(grid_ids(grid, offset)[chosen])
        lengths = [part.shape[1] for part in tokens]
        spans, start = [], text.shape[1] + lengths[0]
        for length in lengths[1:]:
            spans.append((start, start + length))
            start += length

        probe = None
        if positions is not None and spans:
            probe = Probe(text.shape[1], lengths[0], spans, positions)
        numbered = [(number, length) for number, length in enumerate(lengths[1:], start=1)]

        def add_conditions(module, args, out):
            return out + self.embeddings.rows_for(lengths[0], numbered, out) if numbered else None

        hook = self.transformer.x_embedder.register_forward_hook(add_conditions)
        try:
            out = self.transformer(
                hidden_states=torch.cat(tokens, 1),
                encoder_hidden_states=text,
                pooled_projections=pooled,
                timestep=times,
                guidance=guidance if self.transformer.config.guidance_embeds else None,
                img_ids=torch.cat(ids).to(noisy.device),
                txt_ids=torch.zeros(text.shape[1], 3, device=noisy.device),
                joint_attention_kwargs={"probe": probe} if probe else None,
            ).sample
        finally:
            hook.remove()
        velocity = flow.unpack(out[:, : lengths[0]], height, width)
        if probe is None:
            return Prediction(velocity, None, None)
        probe.open = False
        return Prediction(velocity, torch.stack(probe.maps), torch.stack(probe.mistakes))


def fuse(attn: nn.Module) -> None:
    """Replace an attention's separate projections by fused ones, as the released LoRA counts them."""
    with torch.no_grad():
        attn.fuse_projections()
    for name in ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj"):
        if hasattr(attn, name):
            delattr(attn, name)
    attn.requires_grad_(False)


def config_from_host(state: weight_map.State, heads: int | None, axes: tuple[int, ...]) -> dict:
    """Arguments of FluxTransformer2DModel for weights in the host's layout."""
    hidden, in_channels = state["img_in.weight"].shape
    head = len(released_names(state)["double_blocks.0.img_attn.norm.query_norm.scale"])
    if sum(axes) != head or (heads is not None and heads * head != hidden):
        raise ValueError(f"The weights have heads of {head} and a width of {hidden}, not axes {axes}, heads {heads}.")

    def count(kind: str) -> int:
        return 1 + max(int(m[1]) for key in state if (m := re.match(rf"{kind}_blocks\.(\d+)\.", key)))

    return {
        "patch_size": 1, "in_channels": in_channels, "num_layers": count("double"),
        "num_single_layers": count("single"), "attention_head_dim": head, "num_attention_heads": hidden // head,
        "joint_attention_dim": state["txt_in.weight"].shape[1],
        "pooled_projection_dim": state["vector_in.in_layer.weight"].shape[1],
        "guidance_embeds": "guidance_in.in_layer.weight" in state, "axes_dims_rope": tuple(axes),
    }  # fmt: skip


def load_transformer(path: Path, dtype: torch.dtype = torch.float32, fused: bool = False) -> FluxTransformer2DModel:
    """FLUX.1 weights: a file in the host's layout, or a folder of diffusers'.

    A host file may hold its `axes_dims_rope` in a `config` in its metadata; without one they are FLUX.1's. Where its
    dtype is the wanted one the weights are the mapped file itself, and nothing is copied.

    Args:
        fused: with fused query, key and value projections, which is how a host file has them.

    Raises:
        ValueError: not FLUX.1 weights.
    """
    if path.is_dir():
        return FluxTransformer2DModel.from_pretrained(path, torch_dtype=dtype, use_safetensors=True)
    with safe_open(path, "pt") as file:
        prefix = "model.diffusion_model."
        state = {key.removeprefix(prefix): file.get_tensor(key).to(dtype) for key in file.keys()}
        stored = json.loads((file.metadata() or {}).get("config", "{}"))
    if "img_in.weight" not in state:
        raise ValueError(f"{path} has no img_in.weight, so it is not FLUX.1 in the host's layout.")
    config = config_from_host(state, None, tuple(stored.get("axes_dims_rope", (16, 56, 56))))
    with torch.device("meta"):
        model = FluxTransformer2DModel(**config)
    if fused:
        for block in (*model.transformer_blocks, *model.single_transformer_blocks):
            fuse(block.attn)
    model.load_state_dict(weight_map.to_diffusers(state, fused), assign=True)
    return model

"""CSD, contrastive style descriptors (Somepalli et al. 2024): cosine of style features, a CLIP ViT's with a head."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch.nn import functional
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from .embedding import Likeness, state_of, version_of

STYLE_HEAD = "last_layer_style"
HEAD_WIDTH = 64
"""Of one attention head, in all of CLIP's ViTs."""

# OpenAI's names in the released file, and what transformers calls them.
_NAMES = (
    (r"^conv1\.weight$", "embeddings.patch_embedding.weight"),
    (r"^class_embedding$", "embeddings.class_embedding"),
    (r"^positional_embedding$", "embeddings.position_embedding.weight"),
    (r"^ln_pre\.", "pre_layrnorm."),
    (r"^ln_post\.", "post_layernorm."),
    (r"^transformer\.resblocks\.(\d+)\.attn\.out_proj\.", r"encoder.layers.\1.self_attn.out_proj."),
    (r"^transformer\.resblocks\.(\d+)\.ln_([12])\.", r"encoder.layers.\1.layer_norm\2."),
    (r"^transformer\.resblocks\.(\d+)\.mlp\.c_fc\.", r"encoder.layers.\1.mlp.fc1."),
    (r"^transformer\.resblocks\.(\d+)\.mlp\.c_proj\.", r"encoder.layers.\1.mlp.fc2."),
)
_JOINED = re.compile(r"^transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)$")


def vision_state(backbone: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """OpenAI's visual tower under the names of transformers' `CLIPVisionModel`.

    Raises:
        ValueError: a key that the tower does not have.
    """
    state = {}
    for key, value in backbone.items():
        if joined := _JOINED.match(key):
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                state[f"encoder.layers.{joined[1]}.self_attn.{letter}_proj.{joined[2]}"] = part
            continue
        for pattern, name in _NAMES:
            renamed, hits = re.subn(pattern, name, key)
            if hits:
                state[renamed] = value
                break
        else:
            raise ValueError(f"The backbone has a key {key} that CLIP's visual tower does not have.")
    return {f"vision_model.{key}": value for key, value in state.items()}


class StyleEncoder:
    """The released checkpoint's visual tower with its style head.

    Raises:
        ValueError: not a CSD checkpoint.
    """

    def __init__(self, state: Mapping[str, torch.Tensor]):
        if STYLE_HEAD not in state:
            raise ValueError(f"This is no CSD checkpoint: it has no {STYLE_HEAD}.")
        backbone = {k.removeprefix("backbone."): v.float() for k, v in state.items() if k.startswith("backbone.")}
        width, _, patch, _ = backbone["conv1.weight"].shape
        side = round((len(backbone["positional_embedding"]) - 1) ** 0.5)
        config = CLIPVisionConfig(
            hidden_size=width, patch_size=patch, image_size=side * patch, num_attention_heads=width // HEAD_WIDTH,
            num_hidden_layers=sum(bool(_JOINED.match(key)) for key in backbone) // 2,
            intermediate_size=len(backbone["transformer.resblocks.0.mlp.c_fc.bias"]), hidden_act="quick_gelu",
        )  # fmt: skip
        self.model = CLIPVisionModel(config).eval()
        own = set(self.model.state_dict())
        found = vision_state(backbone)
        # transformers 5 dropped the prefix.
        found = {key if key in own else key.removeprefix("vision_model."): value for key, value in found.items()}
        self.model.load_state_dict(found)
        self.head = state[STYLE_HEAD].float()
        size = {"height": config.image_size, "width": config.image_size}
        self.processor = CLIPImageProcessor(size={"shortest_edge": config.image_size}, crop_size=size)

    def __call__(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """(n, d) style features of length 1."""
        pixels = self.processor(images=list(pictures), return_tensors="pt")["pixel_values"]
        return functional.normalize(self.model(pixel_values=pixels).pooler_output @ self.head, dim=-1)


def csd(path: str) -> Likeness:
    """From the released checkpoint (.pth through the weights-only reader, or its tensors as safetensors)."""
    encoder = StyleEncoder(state_of(Path(path)))
    return Likeness("csd", "CSD", version_of(Path(path)), encoder, tasks=("style",))

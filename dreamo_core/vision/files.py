"""SigLIP and DINOv2 as timm, Hugging Face and open_clip write them, in the names and shapes of `vit.ViT`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from .vit import ViTConfig

_PREFIXES = ("visual.trunk.", "vision_model.", "model.", "module.")
"""What other layouts put in front: open_clip, Hugging Face, wrappers."""

# Hugging Face's names (SigLIP's and DINOv2's) and those of the first DINOv2 release, in timm's.
_RENAMED = (
    (r"embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"embeddings\.position_embedding\.weight", "pos_embed"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.cls_token", "cls_token"),
    (r"(embeddings\.)?register_tokens", "reg_token"),
    (r"encoder\.layers?\.(\d+)\.", r"blocks.\1."),
    (r"\.layer_norm(\d)\.", r".norm\1."),
    (r"\.(self_attn|attention)\.([qkv])_proj\.", r".attn.\2."),
    (r"\.(self_attn\.out|attention\.o)_proj\.", ".attn.proj."),
    (r"\.attention\.attention\.query\.", ".attn.q."),
    (r"\.attention\.attention\.key\.", ".attn.k."),
    (r"\.attention\.attention\.value\.", ".attn.v."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layer_scale(\d)\.lambda1", r".ls\1.gamma"),
)

_USED = re.compile(
    r"patch_embed\.proj\.(weight|bias)|pos_embed|cls_token|reg_token"
    r"|blocks\.\d+\.(norm[12]|attn\.(qkv|proj|[qkv])|mlp\.fc[12])\.(weight|bias)|blocks\.\d+\.ls[12]\.gamma"
)


@dataclass(frozen=True, eq=False)
class VisionFile:
    """A vision transformer's weights.

    Attributes:
        name: of the file.
        config: read from the shapes.
        weights: by `ViT`'s parameter names.
        unused: keys of the file that a `ViT` has no place for (final norm, pooling head, text tower), in its order.
    """

    name: str
    config: ViTConfig
    weights: dict[str, torch.Tensor]
    unused: tuple[str, ...]


def timm_name(key: str) -> str:
    """The key as timm would call it; keys of other parts of a model come back as some name that `ViT` has not."""
    if key.startswith(("text_model.", "text.")):
        return key
    for prefix in _PREFIXES:
        key = key.removeprefix(prefix)
    for pattern, name in _RENAMED:
        key = re.sub(pattern, name, key)
    return key


def _joined(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Separate q, k and v put into one."""
    joined = {}
    for name, tensor in weights.items():
        parts = re.fullmatch(r"(blocks\.\d+\.attn\.)([qkv])\.(weight|bias)", name)
        if parts is None:
            joined[name] = tensor
        elif parts[2] == "q":
            joined[f"{parts[1]}qkv.{parts[3]}"] = torch.cat([weights[f"{parts[1]}{p}.{parts[3]}"] for p in "qkv"])
    return joined


def read_vision(state: Mapping[str, torch.Tensor], name: str, heads: int = 16, tanh: bool = False) -> VisionFile:
    """A file's tensors as a `ViT` takes them.

    Args:
        state: in timm's, Hugging Face's or open_clip's layout.
        name: of the file, for messages.
        heads: cannot be read from shapes; 16 in SigLIP so400m and in DINOv2 ViT-L.
        tanh: whether it wants the approximate GELU.

    Raises:
        ValueError: not a vision transformer of these kinds.
    """
    names = {key: timm_name(key) for key in state}
    weights = {new: state[key] for key, new in names.items() if _USED.fullmatch(new)}
    unused = tuple(key for key, new in names.items() if not _USED.fullmatch(new))
    missing = [key for key in ("patch_embed.proj.weight", "pos_embed", "blocks.0.mlp.fc1.weight") if key not in weights]
    if missing:
        raise ValueError(
            f"{name} is not a SigLIP or DINOv2 vision transformer in timm's, Hugging Face's or open_clip's layout: it "
            f"has no {missing[0]}. Choose siglip so400m patch14 384 or dinov2 vit-l14 with registers."
        )
    weights = _joined(weights)
    table = weights["pos_embed"].reshape(1, -1, weights["pos_embed"].shape[-1])
    side = int(table.shape[1] ** 0.5)
    if "cls_token" in weights and side * side == table.shape[1] - 1:
        # The first release adds a position to the class token too, before anything else happens to it.
        weights["cls_token"] = weights["cls_token"] + table[:, :1]
        table = table[:, 1:]
    side = int(table.shape[1] ** 0.5)
    if side * side != table.shape[1]:
        raise ValueError(f"{name}: a position table of {table.shape[1]} patches is not square, so it cannot be read.")
    weights["pos_embed"] = table
    width, _, patch, _ = weights["patch_embed.proj.weight"].shape
    if width % heads:
        raise ValueError(f"{name} is {width} wide, not a multiple of {heads} heads; choose one of the named encoders.")
    config = ViTConfig(
        width=width,
        depth=1 + max(int(key.split(".")[1]) for key in weights if key.startswith("blocks.")),
        heads=heads,
        mlp=weights["blocks.0.mlp.fc1.weight"].shape[0],
        patch=patch,
        grid=(side, side),
        class_token="cls_token" in weights,
        registers=weights["reg_token"].shape[1] if "reg_token" in weights else 0,
        layer_scale="blocks.0.ls1.gamma" in weights,
        tanh=tanh,
    )
    return VisionFile(name, config, weights, unused)

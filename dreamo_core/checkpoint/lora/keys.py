"""What a key of a LoRA file says: which format it is of, where it lands and which part of the layer it holds."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .slots import Place, Slot, find_place

DOWN, UP, ALPHA, BIAS, MAGNITUDE, DORA_SCALE = "down", "up", "alpha", "bias", "magnitude", "dora_scale"

XLABS, DIFFUSERS, ORIGINAL, KOHYA, PEFT = "XLabs", "diffusers", "BFL/ComfyUI", "kohya", "PEFT"


@dataclass(frozen=True)
class LoraKey:
    """A key that was understood.

    Attributes:
        name: the key itself.
        format: one of the formats above.
        module: the module's name as written in the file.
        place: where the layer lands.
        role: which of the layer's tensors this is.
    """

    name: str
    format: str
    module: str
    place: Place
    role: str


# One entry per role; alternatives are the spellings in use. `\w+` is PEFT's adapter name.
_TAILS = tuple(
    (role, re.compile(rf"^(.+?)(?:{tails})$"))
    for role, tails in (
        (DOWN, r"\.lora_A(?:\.\w+)?\.weight|\.lora_A|\.lora_down\.weight|\.lora\.down\.weight"
               r"|\.lora_linear_layer\.down\.weight"),
        (UP, r"\.lora_B(?:\.\w+)?\.weight|\.lora_B|\.lora_up\.weight|\.lora\.up\.weight"
             r"|\.lora_linear_layer\.up\.weight"),
        (BIAS, r"\.lora_B(?:\.\w+)?\.bias"),
        (ALPHA, r"\.alpha"),
        (MAGNITUDE, r"\.lora_magnitude_vector(?:\.\w+?)?(?:\.weight)?"),
        (DORA_SCALE, r"\.dora_scale"),
    )
)  # fmt: skip

# Prefix, block, processor part, then qkv_lora1 and so on; dots or underscores between them.
_XLABS = re.compile(
    r"^(?:.*[._])?(double|single)_blocks[._](\d+)[._](?:.*[._])?(qkv|proj)_lora([12]?)\.(?:(down|up)\.weight|(alpha))$"
)
XLABS_LAYERS = {
    ("double", "qkv", "1"): ("img_attn.qkv", ""),
    ("double", "qkv", "2"): ("txt_attn.qkv", ""),
    ("double", "proj", "1"): ("img_attn.proj", ""),
    ("double", "proj", "2"): ("txt_attn.proj", ""),
    # The MLP rows of linear1 are not covered; linear2 is, all of it.
    ("single", "qkv", ""): ("linear1", "qkv"),
    ("single", "proj", ""): ("linear2", ""),
}

_TEXT_ENCODER = re.compile(r"^(lora_te\d?_|lycoris_te|text_encoders?[._\d]|text_model\.|clip_[lg]\.|t5xxl\.)")


def _read_xlabs(name: str) -> LoraKey | None:
    match = _XLABS.match(name)
    if match is None:
        return None
    kind, number, what, stream, role, alpha = match.groups()
    layer = XLABS_LAYERS.get((kind, what, stream))
    if layer is None:
        return None
    place = Place(Slot(f"{kind}_blocks.{int(number)}.{layer[0]}", layer[1]))
    return LoraKey(name, XLABS, name[: match.start(5 if role else 6) - 1], place, role or alpha)


def _format_of(module: str) -> str:
    if module.startswith("base_model.model."):
        return PEFT
    if module.startswith(("lora_unet_", "lora_transformer_", "lycoris_")):
        return KOHYA
    # Names at the top of the model are those of diffusers unless they are the original's.
    in_original = re.search(r"(^|\.)((double|single)_blocks|(img|txt|time|vector|guidance)_in|final_layer)\b", module)
    return ORIGINAL if in_original else DIFFUSERS


def read_key(name: str) -> LoraKey | None:
    """Understand one key; None if it is of no known kind."""
    xlabs = _read_xlabs(name)
    if xlabs is not None:
        return xlabs
    for role, tail in _TAILS:
        match = tail.match(name)
        if match is None:
            continue
        place = find_place(match[1])
        return None if place is None else LoraKey(name, _format_of(match[1]), match[1], place, role)
    return None


def is_text_encoder_key(name: str) -> bool:
    """Whether the key belongs to a text encoder's LoRA, which DreamO has no use for."""
    return _TEXT_ENCODER.match(name) is not None

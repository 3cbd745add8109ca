"""Where a LoRA lands: the linear layers of FLUX.1 by the names that files use for them.

Two families of names exist: the original one (`double_blocks.0.img_attn.qkv`, also the host's) and that of diffusers
(`transformer_blocks.0.attn.to_q`), which has separate layers where the original has one fused layer. A slot is an
original layer, or one of the parts that diffusers and XLabs address on their own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...flux import DOUBLE, SINGLE, SWAPPED_DIFFUSERS, SWAPPED_ORIGINAL, TOP


@dataclass(frozen=True, order=True)
class Slot:
    """A linear layer, or some of its output rows.

    Attributes:
        layer: original name without `.weight`, for example `single_blocks.3.linear1`.
        part: "" for all rows; "q", "k", "v" for a third of a fused attention projection; "mlp" for what follows
            them in `linear1`; "qkv" for the three together.
    """

    layer: str
    part: str = ""

    def rows(self, out_features: int, in_features: int) -> tuple[int, int]:
        """First row and number of rows of a weight (out_features, in_features); q, k and v are as wide as the input."""
        start, length = {
            "": (0, out_features),
            "q": (0, in_features),
            "k": (in_features, in_features),
            "v": (2 * in_features, in_features),
            "qkv": (0, 3 * in_features),
            "mlp": (3 * in_features, out_features - 3 * in_features),
        }[self.part]
        return start, length

    def __str__(self) -> str:
        return f"{self.layer}[{self.part}]" if self.part else self.layer


@dataclass(frozen=True)
class Place:
    """What a module name stands for.

    Attributes:
        slot: where it lands.
        swapped: its two halves of output rows (scale, shift) are stored in the other order.
    """

    slot: Slot
    swapped: bool = False


_QKV_PARTS = ("q", "k", "v")

_BLOCKS = {
    "double_blocks": "double_blocks",
    "single_blocks": "single_blocks",
    "transformer_blocks": "double_blocks",
    "single_transformer_blocks": "single_blocks",
}


def _flat(name: str) -> str:
    """Kohya writes underscores for dots; compared this way both spellings are one."""
    return name.replace(".", "_")


def _block_table(layers: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, str]]:
    table = {_flat(original): (original, "") for original in layers}
    for original, names in layers.items():
        parts = (*_QKV_PARTS, "mlp") if len(names) > 1 else ("",)
        table |= {_flat(name): (original, part) for name, part in zip(names, parts, strict=False)}
    return table


_IN_DOUBLE = _block_table(DOUBLE)
# ComfyUI's own name for the attention rows of linear1, used by the DreamO files converted for it.
_IN_SINGLE = {**_block_table(SINGLE), "linear1_qkv": ("linear1", "qkv")}
_IN_TOP = {_flat(n): Place(Slot(original)) for original, name in TOP.items() for n in (original, name)} | {
    _flat(SWAPPED_ORIGINAL): Place(Slot(SWAPPED_ORIGINAL)),
    _flat(SWAPPED_DIFFUSERS): Place(Slot(SWAPPED_ORIGINAL), swapped=True),
}

_PREFIX = re.compile(
    r"^(?:base_model\.model\.|model\.(?=diffusion_model\.)|diffusion_model\.|transformer\.|unet\.|module\.|_orig_mod\."
    r"|lora_unet_|lora_transformer_|lycoris_)+"
)
_BLOCK = re.compile(rf"^({'|'.join(_BLOCKS)})[._](\d+)[._](.+)$")


def find_place(module: str) -> Place | None:
    """The place that a module name of any family, with or without its usual prefixes, stands for; None if unknown."""
    name = _PREFIX.sub("", module)
    block = _BLOCK.match(name)
    if block is None:
        return _IN_TOP.get(_flat(name))
    kind, number, rest = _BLOCKS[block[1]], int(block[2]), _flat(block[3])
    found = (_IN_DOUBLE if kind == "double_blocks" else _IN_SINGLE).get(rest)
    if found is None:
        return None
    return Place(Slot(f"{kind}.{number}.{found[0]}", found[1]))


def split_slot(slot: Slot) -> list[Slot]:
    """The parts of a fused layer that diffusers has as layers of their own, in row order; [slot] for all others."""
    fused = slot.layer.endswith((".img_attn.qkv", ".txt_attn.qkv", ".linear1"))
    if not fused or slot.part in (*_QKV_PARTS, "mlp"):
        return [slot]
    parts = (*_QKV_PARTS, "mlp") if slot.layer.endswith(".linear1") and not slot.part else _QKV_PARTS
    return [Slot(slot.layer, part) for part in parts]


def diffusers_name(slot: Slot) -> tuple[str, bool]:
    """The diffusers module of a slot (one of those from `split_slot`), and whether its halves of rows are swapped."""
    if slot.layer == SWAPPED_ORIGINAL:
        return SWAPPED_DIFFUSERS, True
    block = _BLOCK.match(slot.layer)
    if block is None:
        return TOP[slot.layer], False
    double = block[1] == "double_blocks"
    names = (DOUBLE if double else SINGLE)[block[3]]
    name = names[(*_QKV_PARTS, "mlp").index(slot.part)] if slot.part else names[0]
    return f"{'transformer_blocks' if double else 'single_transformer_blocks'}.{block[2]}.{name}", False

"""What a model file holds, by the names and shapes in its header: no weight is read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..checkpoint.lora.keys import DOWN, XLABS, read_key
from ..checkpoint.read import EMBEDDING_KEYS
from ..checkpoint.safetensors import TensorInfo

Infos = Mapping[str, TensorInfo]

FLUX, T5, CLIP_L, VAE = "FLUX.1 transformer", "T5-XXL encoder", "CLIP-L text encoder", "FLUX.1 VAE"
DREAMO, TABLES = "DreamO's LoRA with its tables", "DreamO's tables alone"
XLABS_LORA, OTHER_LORA = "FLUX.1 LoRA with XLabs keys", "FLUX.1 LoRA"
UNKNOWN = "another kind of file"

HIDDEN_SIZE, DOUBLE_BLOCKS, SINGLE_BLOCKS = 3072, 19, 38
"""Of FLUX.1."""
PLAIN_CHANNELS = 64
"""Of img_in: 16 latent channels in patches of 2 × 2. FLUX.1 Fill, Depth and Canny have more."""
T5_WIDTH, T5_BLOCKS, CLIP_WIDTH, LATENT_CHANNELS = 4096, 24, 768, 16
PLACEHOLDER_WIDTH = T5_WIDTH
RELEASED_RANK = 128


@dataclass(frozen=True)
class Kind:
    """What was recognized.

    Attributes:
        name: one of the names above.
        problems: sentences on what is not as in the released models.
        notes: sentences on what is worth knowing.
    """

    name: str
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def _ending(infos: Infos, ending: str) -> TensorInfo | None:
    """The tensor whose name is this, or ends with it behind a prefix (checkpoints have one)."""
    return next((info for key, info in infos.items() if key == ending or key.endswith(f".{ending}")), None)


def _numbered(names: Iterable[str], pattern: str) -> int:
    """How many different numbers a pattern finds."""
    return len({match[1] for key in names if (match := re.search(pattern, key))})


def _flux(infos: Infos) -> Kind:
    hidden = _ending(infos, "double_blocks.0.img_attn.qkv.weight").shape[-1]
    double, single = (_numbered(infos, rf"(?:^|\.){kind}_blocks\.(\d+)\.") for kind in ("double", "single"))
    problems, notes = [], []
    if (hidden, double, single) != (HIDDEN_SIZE, DOUBLE_BLOCKS, SINGLE_BLOCKS):
        problems.append(
            f"hidden size {hidden}, {double} double and {single} single blocks; FLUX.1-dev has {HIDDEN_SIZE}, "
            f"{DOUBLE_BLOCKS} and {SINGLE_BLOCKS}"
        )
    if _ending(infos, "guidance_in.in_layer.weight") is None:
        problems.append("it has no guidance embedding: FLUX.1-schnell, which DreamO was not trained for")
    image = _ending(infos, "img_in.weight")
    if image is not None and len(image.shape) == 2 and image.shape[1] != PLAIN_CHANNELS:
        problems.append(f"img_in takes {image.shape[1]} channels: FLUX.1 Fill, Depth or Canny; take FLUX.1-dev")
    notes.append(f"{double} double and {single} single blocks, hidden size {hidden}")
    return Kind(FLUX, tuple(problems), tuple(notes))


def _t5(infos: Infos) -> Kind:
    rows, width = _ending(infos, "shared.weight").shape
    blocks = _numbered(infos, r"encoder\.block\.(\d+)\.")
    wrong = (width, blocks) != (T5_WIDTH, T5_BLOCKS)
    problem = f"width {width} and {blocks} blocks; T5-XXL has {T5_WIDTH} and {T5_BLOCKS}; take t5xxl_fp16"
    return Kind(T5, (problem,) if wrong else (), (f"{rows} rows of vocabulary, width {width}, {blocks} blocks",))


def _clip(infos: Infos) -> Kind:
    width = _ending(infos, "text_model.encoder.layers.0.mlp.fc2.weight").shape[0]
    wrong = width != CLIP_WIDTH
    return Kind(CLIP_L, (f"width {width}: another CLIP; CLIP-L has {CLIP_WIDTH}",) if wrong else ())


def _vae(infos: Infos) -> Kind:
    channels = _ending(infos, "decoder.conv_in.weight").shape[1]
    wrong = channels != LATENT_CHANNELS
    problem = f"{channels} latent channels: the VAE of another model; FLUX.1's (ae.safetensors) has {LATENT_CHANNELS}"
    return Kind(VAE, (problem,) if wrong else ())


def _tables(infos: Infos) -> list[str]:
    shapes = {key: infos[key].shape for key in EMBEDDING_KEYS if key in infos}
    task, index, placeholders = (shapes.get(key) for key in EMBEDDING_KEYS)
    problems = []
    for name, shape, wanted in (("task", task, (2, HIDDEN_SIZE)), ("index", index, (10, HIDDEN_SIZE))):
        if shape != wanted:
            problems.append(f"the {name} table is {shape or 'missing'}, released {wanted}")
    if placeholders is not None and (placeholders[-1] != PLACEHOLDER_WIDTH or placeholders[0] < 10):
        problems.append(f"the T5 rows are {placeholders}; the last 10 of width {PLACEHOLDER_WIDTH} are needed")
    return problems


def _lora(infos: Infos) -> Kind | None:
    keys = [key for name in infos if name not in EMBEDDING_KEYS and (key := read_key(name)) is not None]
    formats = {key.format for key in keys}
    has_tables = any(key in infos for key in EMBEDDING_KEYS)
    if not keys:
        return Kind(TABLES, tuple(_tables(infos))) if has_tables else None
    problems, notes = [], []
    ranks = {infos[key.name].shape[0] for key in keys if key.role == DOWN and infos[key.name].shape}
    slots = {str(key.place.slot) for key in keys}
    double, single = (_numbered(slots, rf"^{kind}_blocks\.(\d+)\.") for kind in ("double", "single"))
    notes.append(f"rank {', '.join(map(str, sorted(ranks)))}; {double} double and {single} single blocks")
    if has_tables:
        problems += _tables(infos)
        if XLABS in formats and ranks != {RELEASED_RANK}:
            problems.append(f"rank {', '.join(map(str, sorted(ranks)))}, released {RELEASED_RANK}")
        if (double, single) != (DOUBLE_BLOCKS, SINGLE_BLOCKS):
            problems.append(
                f"it covers {double} double and {single} single blocks, released {DOUBLE_BLOCKS} and {SINGLE_BLOCKS}"
            )
        return Kind(DREAMO, tuple(problems), tuple(notes))
    return Kind(XLABS_LORA if formats == {XLABS} else OTHER_LORA, (), tuple(notes))


def recognize(infos: Infos) -> Kind:
    """What the tensors of a file are."""
    if (lora := _lora(infos)) is not None:
        return lora
    for ending, read in (
        ("double_blocks.0.img_attn.qkv.weight", _flux),
        ("encoder.block.0.layer.0.SelfAttention.q.weight", _t5),
        ("text_model.encoder.layers.0.mlp.fc2.weight", _clip),
        ("decoder.conv_in.weight", _vae),
    ):
        if _ending(infos, ending) is not None:
            return read(infos)
    first = ", ".join(list(infos)[:3])
    return Kind(UNKNOWN, (), (f"its first tensors are {first}",) if first else ())

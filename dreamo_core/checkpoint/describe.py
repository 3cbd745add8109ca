"""What a DreamO or LoRA file is, in words: for the command line and for the nodes."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from ..sequence.embeddings import INDEX_KEY, PLACEHOLDER_KEY, PLACEHOLDER_ROWS, TASK_KEY
from .lora.collect import listing
from .lora.keys import ALPHA, BIAS, DORA_SCALE, DOWN, MAGNITUDE, LoraKey, is_text_encoder_key, read_key
from .lora.layer import Lora
from .lora.peft_settings import METADATA_KEY
from .presets import is_released
from .read import EMBEDDING_KEYS, adapter_config_of
from .safetensors import SafeTensors, TensorInfo, open_safetensors

_TABLES = {TASK_KEY: "task", INDEX_KEY: "index", PLACEHOLDER_KEY: "placeholders (T5)"}


def unused_message(name: str, unused: Iterable[str]) -> str:
    """One warning that names keys which were not used; empty if there are none."""
    unused = list(unused)
    if not unused:
        return ""
    groups = {
        "DreamO's tables": [key for key in unused if key in EMBEDDING_KEYS],
        "text encoders": [key for key in unused if is_text_encoder_key(key)],
    }
    known = {key for keys in groups.values() for key in keys}
    groups["no known kind"] = [key for key in unused if key not in known]
    said = "; ".join(f"{len(keys)} of {kind} ({listing(keys)})" for kind, keys in groups.items() if keys)
    return f"{name}: {len(unused)} key{'s' if len(unused) > 1 else ''} not used: {said}."


def _ranges(numbers: Iterable[int]) -> str:
    """0-18 for 0 … 18; 0-3, 7 with gaps."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def short_description(lora: Lora) -> str:
    """Format, rank and how many layers; on a second line, where its scales are from if that needs saying."""
    ranks = ", ".join(str(rank) for rank in lora.ranks)
    line = f"{lora.name}: {' + '.join(sorted(lora.formats))} LoRA, rank {ranks}, {len(lora.layers)} layers"
    return f"{line}\n{lora.note}" if lora.note else line


def _mib(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"


def _coverage(keys: list[LoraKey]) -> list[tuple[str, str]]:
    """Rows of (layer within its block, blocks it is covered in)."""
    blocks: dict[str, list[int]] = defaultdict(list)
    for key in keys:
        if key.role != DOWN:
            continue
        match = re.match(r"(double|single)_blocks\.(\d+)\.(.+)", str(key.place.slot))
        if match:
            blocks[f"{match[1]} {match[3]}"].append(int(match[2]))
        else:
            blocks[str(key.place.slot)].append(-1)
    return [
        (name, "-" if numbers == [-1] else f"{len(numbers)} blocks: {_ranges(numbers)}")
        for name, numbers in sorted(blocks.items())
    ]


def _alphas(file: SafeTensors, keys: list[LoraKey], path: Path) -> str:
    if adapter_config_of(path) is not None:
        return "from adapter_config.json beside it"
    values = Counter(float(file.tensor(key.name).flatten()[0]) for key in keys if key.role == ALPHA)
    if values:
        return ", ".join(f"{value:g} ({count} layers)" for value, count in sorted(values.items()))
    if METADATA_KEY in file.metadata and not is_released(path.name):
        return "from PEFT settings in its header"
    return "none stored (scale 1)"


def _dtypes(infos: Iterable[TensorInfo]) -> str:
    counts = Counter(info.dtype for info in infos)
    return ", ".join(f"{dtype} ({count} tensors)" for dtype, count in counts.most_common())


def _extras(keys: list[LoraKey]) -> str:
    roles = {key.role for key in keys}
    names = {MAGNITUDE: "DoRA (PEFT)", DORA_SCALE: "DoRA (LyCORIS)", BIAS: "bias"}
    return ", ".join(name for role, name in names.items() if role in roles) or "none"


def _lora_rows(file: SafeTensors, keys: list[LoraKey], path: Path) -> list[tuple[str, str]]:
    if not keys:
        return [("LoRA", "none")]
    ranks = Counter(file.infos[key.name].shape[0] for key in keys if key.role == DOWN)
    formats = Counter(key.format for key in keys)
    return [
        ("LoRA format", ", ".join(f"{name} ({count} keys)" for name, count in formats.most_common())),
        ("rank", ", ".join(f"{rank} ({count} layers)" for rank, count in sorted(ranks.items()))),
        ("alpha", _alphas(file, keys, path)),
        ("DoRA, bias", _extras(keys)),
        *(("covers " + name, where) for name, where in _coverage(keys)),
    ]


def _table_row(file: SafeTensors, key: str) -> tuple[str, str]:
    info = file.infos.get(key)
    note = f"; the last {PLACEHOLDER_ROWS} rows are used" if key == PLACEHOLDER_KEY else ""
    size = "none" if info is None else " × ".join(map(str, info.shape)) + f" {info.dtype}{note}"
    return f"{_TABLES[key]} table", size


def as_table(rows: list[tuple[str, str]]) -> str:
    """Rows of two columns as text."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def description(path: Path) -> list[tuple[str, str]]:
    """What a file is, by name: format, rank, blocks covered, tables, alpha, dtype and what is not understood.

    Raises:
        ValueError: not a readable safetensors file.
    """
    with open_safetensors(path) as file:
        found = {name: read_key(name) for name in file.infos if name not in EMBEDDING_KEYS}
        unused = [name for name, key in found.items() if key is None]
        return [
            ("size", f"{_mib(path.stat().st_size)}, {len(file.infos)} tensors"),
            ("dtype", _dtypes(file.infos.values())),
            *_lora_rows(file, [key for key in found.values() if key is not None], path),
            *(_table_row(file, key) for key in _TABLES),
            ("not used", f"{len(unused)} keys" + (": " + listing(unused) if unused else "")),
        ]


def describe(path: Path) -> str:
    """`description` as a table for the command line.

    Raises:
        ValueError: not a readable safetensors file.
    """
    return as_table([("file", str(path)), *description(path)])

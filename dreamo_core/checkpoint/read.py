"""Reading DreamO files and LoRAs: every key is used, or named among those that were not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ..sequence.embeddings import INDEX_KEY, PLACEHOLDER_KEY, PLACEHOLDER_ROWS, TASK_KEY, Embeddings, read_embeddings
from .lora.collect import AlphaRule, collect_lora, listing
from .lora.keys import read_key
from .lora.layer import Lora
from .lora.peft_settings import CONFIG_NAME, METADATA_KEY, WEIGHTS_NAME, alpha_rule, read_config, read_metadata
from .presets import is_released
from .safetensors import SafeTensors, open_safetensors

EMBEDDING_KEYS = (TASK_KEY, INDEX_KEY, PLACEHOLDER_KEY)

EMBEDDINGS_NAME = "embedding.safetensors"
"""Released name of the file with the tables alone; also what we put beside a PEFT adapter."""


@dataclass(frozen=True, eq=False)
class LoraFile:
    """A LoRA as read from a file.

    Attributes:
        path: the file.
        lora: its layers.
        unused: keys that are not part of it, in the file's order.
    """

    path: Path
    lora: Lora
    unused: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class DreamOModel:
    """What `DREAMO_MODEL` carries between nodes.

    Attributes:
        path: the file it was read from.
        embeddings: task, index and, where the file has them, placeholder tables.
        lora: the LoRA of the same file, or None if it holds tables alone.
        unused: keys of the file that are neither, in the file's order.
    """

    path: Path
    embeddings: Embeddings
    lora: Lora | None = None
    unused: tuple[str, ...] = ()


def fingerprint(path: Path) -> list[tuple[str, int, int]]:
    """Changes whenever the file, or one that is read with it, is replaced."""
    beside = (path, path.parent / CONFIG_NAME, path.parent / EMBEDDINGS_NAME)
    stats = [(file, file.stat()) for file in beside if file.exists()]
    return [(str(file), stat.st_mtime_ns, stat.st_size) for file, stat in stats]


def adapter_config_of(path: Path) -> Path | None:
    """The settings beside the weights of a PEFT adapter folder."""
    config = path.parent / CONFIG_NAME
    return config if path.name == WEIGHTS_NAME and config.exists() else None


def _alpha_rule(file: SafeTensors, path: Path) -> tuple[AlphaRule | None, str]:
    """PEFT's settings, from beside an adapter or from the file's own header, and a line on where they are from.

    The release reads its own files as tensors alone (and its pinned diffusers knows no settings in a header), so these
    have the scale 1 whatever their headers say.
    """
    config = adapter_config_of(path)
    if config is not None:
        return alpha_rule(read_config(config), path.name), f"scales from {config.name} beside it"
    if METADATA_KEY not in file.metadata:
        return None, ""
    if is_released(path.name):
        return None, "PEFT settings in its header are not used, as in the release"
    settings = read_metadata(file.metadata[METADATA_KEY], path.name)
    if settings is None:
        return None, ""
    return alpha_rule(settings, path.name), "scales from the PEFT settings in its header"


def _with_note(lora: Lora, note: str) -> Lora:
    """The LoRA with what is to be said about its scales.

    Layers of different ranks without alpha have the scale 1 each, as ComfyUI has it. diffusers would scale all by the
    first one's rank, so that the result would depend on the order of keys.
    """
    notes = [note] if note else []
    if len(lora.ranks) > 1 and all(layer.alpha is None for layer in lora.layers.values()):
        notes.append("several ranks and no alpha: each layer has the scale 1")
    return replace(lora, note="; ".join(notes))


def _read_tables(file: SafeTensors) -> Embeddings | None:
    present = [key for key in EMBEDDING_KEYS if key in file.infos]
    # The T5 table may be the whole vocabulary; only its end is DreamO's.
    tensors = {
        key: file.last_rows(key, PLACEHOLDER_ROWS) if key == PLACEHOLDER_KEY else file.tensor(key).clone()
        for key in present
    }
    return read_embeddings(tensors, file.name) if present else None


@dataclass(frozen=True, eq=False)
class _Contents:
    lora: Lora | None
    embeddings: Embeddings | None
    tables: tuple[str, ...]
    unused: tuple[str, ...]


def _read(path: Path) -> _Contents:
    with open_safetensors(path) as file:
        keys = {name: read_key(name) for name in file.infos if name not in EMBEDDING_KEYS}
        understood = [key for key in keys.values() if key is not None]
        lora = None
        if understood:
            rule, note = _alpha_rule(file, path)
            lora = _with_note(collect_lora(understood, file.tensor, path.name, rule), note)
        return _Contents(
            lora,
            _read_tables(file),
            tuple(name for name in EMBEDDING_KEYS if name in file.infos),
            tuple(name for name, key in keys.items() if key is None),
        )


def load_dreamo_model(path: Path) -> DreamOModel:
    """Read a DreamO file: `dreamo.safetensors`, `embedding.safetensors`, or a LoRA with the latter beside it.

    Raises:
        ValueError: unreadable, without DreamO's tables, or with keys that are malformed.
    """
    contents = _read(path)
    embeddings, unused = contents.embeddings, contents.unused
    beside = path.parent / EMBEDDINGS_NAME
    if embeddings is None and contents.lora is not None and beside.exists():
        tables = _read(beside)
        embeddings, unused = tables.embeddings, (*unused, *tables.unused)
    if embeddings is None:
        embeddings = read_embeddings({}, path.name)
    return DreamOModel(path, embeddings, contents.lora, unused)


def load_lora_file(path: Path) -> LoraFile:
    """Read a LoRA for FLUX.1 of any layout; DreamO's tables, if it has some too, count as unused.

    Raises:
        ValueError: unreadable, nothing in it that fits FLUX.1, or keys that are malformed.
    """
    contents = _read(path)
    if contents.lora is None:
        held = f"; it holds {listing(contents.unused)}" if contents.unused else ""
        raise ValueError(f"{path.name} has no LoRA weights for FLUX.1{held}. Choose a FLUX.1 LoRA.")
    return LoraFile(path, contents.lora, (*contents.tables, *contents.unused))

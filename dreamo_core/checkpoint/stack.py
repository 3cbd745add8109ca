"""A DreamO model with its companions: which files a choice needs, and reading them all before anything is patched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .presets import FILES, PRESETS, TURBO, ReleasedFile, missing_message
from .read import EMBEDDING_KEYS, DreamOModel, LoraFile, load_dreamo_model, load_lora_file
from .safetensors import open_safetensors

MAIN = "dreamo"
CUSTOM = "custom"
CHOICES = (*PRESETS, CUSTOM)


@dataclass(frozen=True, eq=False)
class Stack:
    """Files of a choice, read.

    Attributes:
        dreamo: the main file.
        companions: the other LoRAs with their strengths, in the order of the manifest.
    """

    dreamo: DreamOModel
    companions: tuple[tuple[LoraFile, float], ...]


def chosen(preset: str, turbo: bool, strengths: Mapping[str, float]) -> dict[str, float]:
    """Strength by file id of the files that take part; the main file always does, at whatever strength.

    Args:
        preset: "v1.1", "v1", or "custom" for every file.
        turbo: whether the turbo LoRA takes part.
        strengths: by file id; a companion at 0 is left out.

    Raises:
        ValueError: unknown preset.
    """
    if preset not in CHOICES:
        raise ValueError(f"There is no DreamO preset {preset!r}; choose one of {', '.join(CHOICES)}.")
    members = [name for name in strengths if name != TURBO] if preset == CUSTOM else list(PRESETS[preset])
    members += [TURBO] if turbo else []
    return {name: strengths[name] for name in members if name == MAIN or strengths[name] != 0}


def locate(names: Mapping[str, float], find: Callable[[ReleasedFile], Path | None], folder: Path) -> dict[str, Path]:
    """Paths by file id.

    Args:
        names: as from `chosen`.
        find: looks for one released file.
        folder: where files are expected, for the message.

    Raises:
        ValueError: one message that names all files which are missing.
    """
    paths = {name: find(FILES[name]) for name in names}
    missing = [FILES[name] for name, path in paths.items() if path is None]
    if missing:
        raise ValueError(missing_message(missing, folder))
    return {name: path for name, path in paths.items() if path is not None}


def read_stack(strengths: Mapping[str, float], paths: Mapping[str, Path], embeddings: Path | None) -> Stack:
    """Read all files of a choice.

    Args:
        strengths: as from `chosen`.
        paths: as from `locate`.
        embeddings: `embedding.safetensors`, for a main file converted to a plain LoRA without the tables.

    Raises:
        ValueError: a file cannot be used.
    """
    dreamo = _read_main(paths[MAIN], embeddings)
    companions = tuple((load_lora_file(paths[name]), strength) for name, strength in strengths.items() if name != MAIN)
    return Stack(dreamo, companions)


def _read_main(path: Path, embeddings: Path | None) -> DreamOModel:
    with open_safetensors(path) as file:
        has_tables = any(key in file.infos for key in EMBEDDING_KEYS)
    if has_tables or embeddings is None:
        return load_dreamo_model(path)
    plain, tables = load_lora_file(path), load_dreamo_model(embeddings)
    return DreamOModel(path, tables.embeddings, plain.lora, (*plain.unused, *tables.unused))

"""The training data: one JSON object per line, every complaint with its line and field.

    {"target": "t.png", "task": "subject", "prompt": "a fox from [ref#1] on a hill",
     "references": [{"image": "r.png", "mask": "m.png"}]}

Paths are relative to the manifest. `mask` (white where the reference's subject is in the target) may be left out: the
routing loss then does not count that reference.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..flux import MAX_REFERENCES
from ..text.placeholders import PLACEHOLDERS

MULTIPLE = 16
"""Sides of pictures are multiples of this: 8 by the autoencoder, 2 by the patches."""


@dataclass(frozen=True)
class ReferenceEntry:
    image: Path
    mask: Path | None


@dataclass(frozen=True)
class Sample:
    """One line.

    Attributes:
        task: any word; a stage's mixture names those it uses.
        prompt: with placeholders.
        target: the picture to learn.
        shape: sizes (h, w) of target and references; samples with the same shape can share a batch.
    """

    task: str
    prompt: str
    target: Path
    references: tuple[ReferenceEntry, ...]
    shape: tuple[tuple[int, int], ...]


class ManifestError(ValueError):
    """Says file, line and field."""


def _text(entry: dict[str, Any], field: str, where: str) -> str:
    value = entry.get(field)
    if not isinstance(value, str) or not value.strip():
        raise ManifestError(f"{where}, field {field!r}: expected text, got {json.dumps(value)}.")
    return value


def _picture(entry: dict[str, Any], field: str, name: str, folder: Path, where: str) -> Path:
    path = folder / _text(entry, field, where)
    if not path.is_file():
        raise ManifestError(f"{where}, field {name!r}: {path} does not exist.")
    return path


def _size(path: Path, name: str, where: str) -> tuple[int, int]:
    try:
        with Image.open(path) as picture:
            width, height = picture.size
    except OSError as error:
        raise ManifestError(f"{where}, field {name!r}: {path} is not a picture that can be read ({error}).") from error
    return height, width


def _sample(entry: Any, folder: Path, where: str) -> Sample:
    if not isinstance(entry, dict):
        raise ManifestError(f"{where}: expected a JSON object, got {json.dumps(entry)[:40]}.")
    unknown = set(entry) - {"target", "task", "prompt", "references"}
    if unknown:
        raise ManifestError(
            f"{where}, field {sorted(unknown)[0]!r}: unknown; known are target, task, prompt, references."
        )
    prompt = _text(entry, "prompt", where)
    listed = entry.get("references")
    if not isinstance(listed, list) or len(listed) > MAX_REFERENCES:
        raise ManifestError(f"{where}, field 'references': expected a list of at most {MAX_REFERENCES}.")
    named = [n for n, mark in enumerate(PLACEHOLDERS[:MAX_REFERENCES]) if mark in prompt]
    if named and named[-1] >= len(listed):
        raise ManifestError(
            f"{where}, field 'prompt': it names {PLACEHOLDERS[named[-1]]} but there are {len(listed)} references."
        )
    target = _picture(entry, "target", "target", folder, where)
    shape, references = [_size(target, "target", where)], []
    for number, item in enumerate(listed):
        name = f"references[{number}]"
        if not isinstance(item, dict) or set(item) - {"image", "mask"}:
            raise ManifestError(f"{where}, field {name!r}: expected an object with `image` and maybe `mask`.")
        image = _picture(item, "image", f"{name}.image", folder, where)
        shape.append(_size(image, f"{name}.image", where))
        mask = None
        if item.get("mask") is not None:
            mask = _picture(item, "mask", f"{name}.mask", folder, where)
            if _size(mask, f"{name}.mask", where) != shape[0]:
                raise ManifestError(f"{where}, field '{name}.mask': its size is not the target's, {shape[0]} (h, w).")
        references.append(ReferenceEntry(image, mask))
    for name, size in zip(["target", *(f"references[{n}].image" for n in range(len(listed)))], shape, strict=True):
        if size[0] % MULTIPLE or size[1] % MULTIPLE:
            raise ManifestError(f"{where}, field {name!r}: sides {size} (h, w) must be multiples of {MULTIPLE}.")
    return Sample(_text(entry, "task", where), prompt, target, tuple(references), tuple(shape))


def read_manifest(path: Path) -> list[Sample]:
    """All samples of a manifest, checked.

    Raises:
        ManifestError: at the first line that is wrong.
    """
    if not path.is_file():
        raise ManifestError(f"{path} does not exist.")
    samples = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path.name} line {number}"
            try:
                entry = json.loads(line)
            except json.JSONDecodeError as error:
                raise ManifestError(f"{where}, column {error.colno}: not JSON ({error.msg}).") from error
            samples.append(_sample(entry, path.parent, where))
    if not samples:
        raise ManifestError(f"{path} has no samples.")
    return samples

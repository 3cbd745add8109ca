"""What the readers of data sets share: finding pictures and prompts, and saying what is missing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ...pictures.load import pictures_in

TEMPLATE_NAME = "{name}"


def pictures_of(folder: Path) -> list[Path]:
    """Pictures of a folder by name.

    Raises:
        ValueError: no such folder, or no picture in it.
    """
    found = pictures_in(folder) if folder.is_dir() else []
    if not found:
        raise ValueError(f"There are no pictures in {folder}; `python -m dreamo_core.bench list` shows the layout.")
    return found


def prompts_of(path: Path, wanted: int) -> list[str]:
    """The lines of a file of prompts, without empty ones and those that begin with `#`.

    Raises:
        ValueError: no such file, or nothing in it.
    """
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    prompts = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not prompts:
        raise ValueError(
            f"There are no prompts in {path}. The paper does not print its own: write {wanted} of yours, one a line."
        )
    return prompts


def identifier(*parts: str | int) -> str:
    """Parts as one name for a folder."""
    return "__".join(re.sub(r"[^A-Za-z0-9-]+", "_", str(part)) for part in parts)


def mask_beside(picture: Path, folder: Path) -> Path | None:
    """The mask of the same name in another folder, with any ending."""
    found = sorted(folder.glob(f"{picture.stem}.*")) if folder.is_dir() else []
    return found[0] if found else None


def with_placeholders(words: Sequence[str]) -> list[str]:
    """`a dog` as `a dog from [ref#1]`, in the order of the chain."""
    return [f"{word} from [ref#{n}]" for n, word in enumerate(words, start=1)]

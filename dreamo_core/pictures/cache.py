"""Prepared pictures kept by content, so that the same picture is never prepared twice in a session.

The host skips a node whose inputs did not change; this is for one that runs again because something else did (another
strength, one of three pictures). Files in a folder that the host empties, not memory: nothing global, and bounded.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ..files import drop_oldest, save_whole
from .picture import Picture

LIMIT_BYTES = 512 * 2**20
SUFFIX = ".safetensors"


def content_key(image: torch.Tensor, mask: torch.Tensor | None, *settings: object) -> str:
    """A name for everything that the prepared picture depends on: values, shapes and settings."""
    digest = hashlib.blake2b(digest_size=20)
    for tensor in (image, mask):
        if tensor is None:
            digest.update(b"none")
        else:
            digest.update(repr((tuple(tensor.shape), tensor.dtype)).encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    digest.update(repr(settings).encode())
    return digest.hexdigest()


def cached_picture(folder: Path, key: str, make: Callable[[], Picture], limit_bytes: int = LIMIT_BYTES) -> Picture:
    """The picture kept under `key`, or what `make` gives, then kept. The oldest go when `limit_bytes` are exceeded."""
    path = folder / (key + SUFFIX)
    found = _read(path)
    if found is not None:
        os.utime(path)
        return found
    picture = make()
    folder.mkdir(parents=True, exist_ok=True)
    _write(path, picture)
    drop_oldest(folder, SUFFIX, limit_bytes)
    return picture


def _read(path: Path) -> Picture | None:
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            keep = file.get_tensor("keep") if "keep" in file.keys() else None  # noqa: SIM118
            return Picture(file.get_tensor("pixels"), keep, file.metadata()["note"])
    except (SafetensorError, FileNotFoundError):
        # Damaged, or dropped by another prompt a moment ago: prepared again and written anew.
        return None


def _write(path: Path, picture: Picture) -> None:
    tensors = {"pixels": picture.pixels} | ({} if picture.keep is None else {"keep": picture.keep})
    save_whole(tensors, path, {"note": picture.note})

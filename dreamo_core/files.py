"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file


def save_whole(tensors: Mapping[str, torch.Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file beside `path` and rename it, so that no reader ever meets half of one.

    An older file of that name stays until then, and stays if writing fails. The folder is made if it is not there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    try:
        whole = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        save_file(whole, scratch, dict(metadata or {}))
        with open(scratch, "rb+") as file:
            # On the disk before the name points to it: a power cut must not leave an empty file under it.
            os.fsync(file.fileno())
        # What mkstemp makes is for its owner alone; the file is to have the folder's usual rights.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(scratch, 0o666 & ~umask)
        os.replace(scratch, path)
    finally:
        Path(scratch).unlink(missing_ok=True)


def drop_oldest(folder: Path, suffix: str, limit_bytes: int) -> None:
    """Delete the least recently used files of that suffix until the rest take at most `limit_bytes`, but never all."""
    files = sorted(folder.glob("*" + suffix), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    total = 0
    for i, path in enumerate(files):
        total += path.stat().st_size
        if i > 0 and total > limit_bytes:
            path.unlink(missing_ok=True)

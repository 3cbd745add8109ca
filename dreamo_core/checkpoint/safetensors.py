"""A safetensors file, opened with distrust: what is wrong with it is said in one sentence.

Tensors are views of the mapped file. Nothing is copied until somebody computes with them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from .lora.collect import listing

_MAX_HEADER = 100_000_000
"""The format's own limit."""

# What people rename to .safetensors, by its first bytes.
_IMPOSTORS = (
    (b"PK\x03\x04", "a PyTorch pickle (.pt, .ckpt, .bin) renamed; a pickle can run code, so it is not opened"),
    (b"\x80\x02", "an old PyTorch pickle (.pt, .ckpt, .bin) renamed; a pickle can run code, so it is not opened"),
    (b"\x80\x04", "a Python pickle renamed; a pickle can run code, so it is not opened"),
    (b"GGUF", "a GGUF file renamed"),
    (b"version https://git-lfs", "a Git LFS pointer, not the weights; fetch the file itself"),
    (b"<", "a web page, not weights: the download was answered with an error or a login page"),
)


@dataclass(frozen=True)
class TensorInfo:
    """What the header says of a tensor: dtype by the format's name ("BF16"), shape, size in bytes."""

    dtype: str
    shape: tuple[int, ...]
    bytes: int


class SafeTensors:
    """An open safetensors file."""

    def __init__(self, name: str, handle: Any, infos: dict[str, TensorInfo], metadata: dict[str, str]):
        self.name = name
        self.infos = infos
        self.metadata = metadata
        self._handle = handle

    def tensor(self, key: str) -> torch.Tensor:
        """A view of the mapped file."""
        return self._handle.get_tensor(key)

    def last_rows(self, key: str, count: int) -> torch.Tensor:
        """A copy of a table's last rows; the others are not read."""
        shape = self.infos[key].shape
        if len(shape) != 2:
            return self.tensor(key)
        return self._handle.get_slice(key)[max(shape[0] - count, 0) :].clone()


def _reject_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
    if twice:
        raise ValueError(f"it has duplicate keys: {listing(twice)}")
    return dict(pairs)


def _read_header(path: Path) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Tensors and metadata by the header; ValueError in words that continue "FILE cannot be used: "."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(32)
        if not start:
            raise ValueError("it is empty")
        length = int.from_bytes(start[:8], "little")
        if size < 8 or not 2 <= length <= _MAX_HEADER:
            # Only now: the length of an honest header may begin with any byte, "<" for one.
            for magic, what in _IMPOSTORS:
                if start.startswith(magic):
                    raise ValueError(f"it is {what}")
            raise ValueError("it does not begin with a safetensors header, so it is another kind of file or damaged")
        if size < 8 + length:
            raise ValueError(f"it is truncated: {size} bytes are there, its header alone takes {8 + length}")
        file.seek(8)
        text = file.read(length)
    try:
        header = json.loads(text, object_pairs_hook=_reject_duplicates)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError("its header is not JSON, so it is damaged") from error
    try:
        metadata = header.pop("__metadata__", {})
        infos = {
            key: TensorInfo(entry["dtype"], tuple(entry["shape"]), entry["data_offsets"][1] - entry["data_offsets"][0])
            for key, entry in header.items()
        }
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0) + 8 + length
    except (AttributeError, KeyError, TypeError, IndexError) as error:
        raise ValueError("its header does not describe tensors, so it is damaged") from error
    if size != end:
        problem = "truncated" if size < end else "damaged"
        raise ValueError(f"it is {problem}: {size} bytes are there, its header describes {end}")
    return infos, metadata


@contextmanager
def open_safetensors(path: Path) -> Iterator[SafeTensors]:
    """Open a file for reading.

    Raises:
        ValueError: it is not there, not a complete safetensors file, or names a tensor twice.
    """
    try:
        infos, metadata = _read_header(path)
    except ValueError as error:
        raise ValueError(f"{path.name} cannot be used: {error}. Download it again.") from error
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read ({error.strerror or error}).") from error
    try:
        with safe_open(path, framework="pt") as handle:
            yield SafeTensors(path.name, handle, infos, metadata)
    except SafetensorError as error:
        raise ValueError(f"{path.name} cannot be used: it is damaged ({error}). Download it again.") from error

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
    """What the header says of a tensor: dtype by the format's name ("BF16") and shape."""

    dtype: str
    shape: tuple[int, ...]


class SafeTensors:
    """An open safetensors file."""

    def __init__(self, name: str, handle: Any):
        self.name = name
        self.metadata: dict[str, str] = handle.metadata() or {}
        slices = ((key, handle.get_slice(key)) for key in handle.keys())  # noqa: SIM118
        self.infos = {key: TensorInfo(part.get_dtype(), tuple(part.get_shape())) for key, part in slices}
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


def _what_is_wrong(path: Path) -> str:
    """Why the library refused a file, in words that continue "FILE cannot be used: "; empty if only it knows."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(32)
        length = int.from_bytes(start[:8], "little")
        if not start:
            return "it is empty"
        if size < 8 or not 2 <= length <= _MAX_HEADER:
            what = next((what for magic, what in _IMPOSTORS if start.startswith(magic)), "")
            what = what or "another kind of file or damaged: it does not begin with a safetensors header"
            return f"it is {what}"
        if size < 8 + length:
            return f"it is truncated: {size} bytes are there, its header alone takes {8 + length}"
        file.seek(8)
        text = file.read(length)
    names: list[str] = []

    def remember(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        # Called for the header itself last.
        names[:] = [name for name, _ in pairs]
        return dict(pairs)

    try:
        header = json.loads(text, object_pairs_hook=remember)
    except (UnicodeDecodeError, json.JSONDecodeError):
        return "its header is not JSON, so it is damaged"
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        return f"it has duplicate keys: {listing(twice)}"
    try:
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        end = max(ends, default=0) + 8 + length
    except (AttributeError, KeyError, TypeError, IndexError):
        return "its header does not describe tensors, so it is damaged"
    if size != end:
        problem = "truncated" if size < end else "damaged"
        return f"it is {problem}: {size} bytes are there, its header describes {end}"
    return ""


@contextmanager
def open_safetensors(path: Path) -> Iterator[SafeTensors]:
    """Open a file for reading.

    Raises:
        ValueError: it is not there, or not a complete safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as handle:
            yield SafeTensors(path.name, handle)
    except SafetensorError as error:
        why = _what_is_wrong(path) or f"it is damaged ({error})"
        raise ValueError(f"{path.name} cannot be used: {why}. Download it again.") from error
    except OSError as error:
        # The library puts the whole path into its own words.
        reason = "No such file or directory" if isinstance(error, FileNotFoundError) else error.strerror or error
        raise ValueError(f"{path.name} cannot be read ({reason}).") from error

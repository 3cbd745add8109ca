"""Weights of the mini world as files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file


def save_whole(state: Mapping[str, torch.Tensor], path: Path, about: dict[str, str]) -> None:
    """Write tensors with notes in the header; the file appears whole or stays as it was."""
    part = path.with_name(path.name + ".part")
    save_file({key: value.detach().contiguous() for key, value in state.items()}, part, about)
    os.replace(part, path)


def save_half(state: Mapping[str, torch.Tensor], path: Path, about: dict[str, str]) -> None:
    """As `save_whole`, in half precision."""
    save_whole({key: value.half() for key, value in state.items()}, path, about)

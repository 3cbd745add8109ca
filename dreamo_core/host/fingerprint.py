"""A name for the weights that a model computes with, cheap enough for every run."""

from __future__ import annotations

import hashlib
import uuid
from typing import Any

import torch

SAMPLES = 64
"""Values of each tensor that are looked at: a whole model would take as long as a step."""


def _add(digest: Any, value: Any) -> None:
    if torch.is_tensor(value):
        flat = value.detach().reshape(-1)
        digest.update(repr((tuple(value.shape), value.dtype)).encode())
        picked = flat[:: max(1, flat.numel() // SAMPLES)][:SAMPLES].contiguous()
        digest.update(picked.view(torch.uint8).cpu().numpy().tobytes() if picked.numel() else b"")
    elif isinstance(value, list | tuple):
        for one in value:
            _add(digest, one)
    elif hasattr(value, "weights"):
        digest.update(type(value).__name__.encode())
        _add(digest, value.weights)
    else:
        digest.update(repr(value if isinstance(value, str | int | float | None) else type(value)).encode())


def fingerprint(model: Any) -> str:
    """A name for the weights of the host's BaseModel with the LoRAs that its patcher puts on them.

    From the original weights and the patches, so it does not matter which of them are applied at the moment. Weights
    that hooks change while sampling have no name: with those it is another one each time.
    """
    digest = hashlib.blake2b(digest_size=20)
    patcher = getattr(model, "current_patcher", None)
    originals = getattr(patcher, "backup", {})
    _add(digest, (str(model.get_dtype()), str(model.manual_cast_dtype)))
    for name, parameter in sorted(model.diffusion_model.state_dict().items()):
        backup = originals.get(f"diffusion_model.{name}")
        _add(digest, (name, parameter if backup is None else backup.weight))
    for name, patches in sorted(getattr(patcher, "patches", {}).items()):
        _add(digest, (name, patches))
    if getattr(patcher, "hook_patches", None):
        _add(digest, uuid.uuid4().hex)
    return digest.hexdigest()

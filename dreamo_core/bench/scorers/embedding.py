"""Scores that are cosines of features; a feature of a reference is computed once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image

from ...checkpoint.download import sha256_of
from ..case import IMAGE
from .protocol import Shot

Embed = Callable[[Sequence[Image.Image]], torch.Tensor]
"""Pictures to features (n, d) of length 1."""


def version_of(path: Path) -> str:
    """Changes with any weights in a file or a folder."""
    if not path.exists():
        raise ValueError(f"There is no {path}; a scorer's weights are local files, nothing is downloaded.")
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.suffix in (".safetensors", ".json"))
    return hashlib.sha256("".join(sha256_of(file) for file in files).encode()).hexdigest()[:16]


def state_of(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a released file: safetensors, or a PyTorch file through the weights-only reader.

    Raises:
        ValueError: unreadable.
    """
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # The readers' errors are of many classes.
        raise ValueError(f"{path.name} cannot be read as weights ({type(error).__name__}: {error}).") from error
    for wrapper in ("model_state_dict", "state_dict", "teacher"):
        state = state.get(wrapper, state)
    return {key.removeprefix("module."): value for key, value in state.items()}


class Likeness:
    """Cosine of a picture's feature with each reference's; several references count alike.

    Args:
        name: of the scorer.
        metric: what its number is called.
        version: of its weights.
        embed: see `Embed`.
        tasks: references of these tasks count; a case without any is not scored.
    """

    def __init__(
        self, name: str, metric: str, version: str, embed: Embed,
        tasks: Sequence[str] = ("subject", "identity", "try-on", "style"),
    ):  # fmt: skip
        self.name, self.metric, self.version, self.embed, self.tasks = name, metric, version, embed, tasks
        self._known: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def features_of(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """(n, d); what has been seen before is not computed again."""
        keys = [hashlib.sha256(repr(p.size).encode() + p.tobytes()).hexdigest() for p in pictures]
        new = {key: picture for key, picture in zip(keys, pictures, strict=True) if key not in self._known}
        if new:
            self._known |= dict(zip(new, self.embed(list(new.values())), strict=True))
        return torch.stack([self._known[key] for key in keys])

    def _counted(self, shot: Shot) -> list[Image.Image]:
        pairs = zip(shot.references, shot.case.references, strict=True)
        return [picture for picture, reference in pairs if reference.task in self.tasks]

    @torch.no_grad()
    def score(self, shots: Sequence[Shot]) -> list[dict[str, float]]:
        numbers: list[dict[str, float]] = [{} for _ in shots]
        chains = {n: self._counted(shot) for n, shot in enumerate(shots) if IMAGE in shot.case.scored}
        chains = {n: references for n, references in chains.items() if references}
        if chains:
            drawn = self.embed([shots[n].picture for n in chains])
            for (n, references), feature in zip(chains.items(), drawn, strict=True):
                numbers[n][self.metric] = float((self.features_of(references) @ feature).mean())
        return numbers

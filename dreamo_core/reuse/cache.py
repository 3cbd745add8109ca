"""Keys and values of references from one step to the next.

On a refresh the whole sequence runs, and each block's keys and values of the references are kept. On the other steps
only text and image tokens run, and attend to what was kept. What is kept belongs to one run, one conditioning, one
size, one set of active references and one set of patched blocks; anything else is a refresh.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..attention.hook import AttentionHook
from ..attention.layout import Block, Layout
from .policy import ReusePolicy, refresh_is_due, step_of
from .store import Shelf

PLACES_KEPT = 4
"""For how many tiles of one image keys and values are kept, each with its own; further ones run in full."""

PATCHINGS_KEPT = 2
"""How many sets of patched blocks are kept apart for one conditioning: the usual pass, and a guidance pass that
skips or changes blocks."""


@dataclass
class Features:
    """Enough of the reference tokens that enter the first block to know how far its modulation has moved them.

    The first block sees norm(x)·(1 + scale) + shift. Over the steps x stays and (scale, shift) move, so the change is
    norm(x)·Δscale + Δshift, and its size follows from two sums a channel.

    Attributes:
        count: number of reference tokens.
        first, second: sums of norm(x) and of its square over the tokens, (b, c) in float32.
        scale, shift: (b, c) of the first block when the features were taken.
    """

    count: int
    first: torch.Tensor
    second: torch.Tensor
    scale: torch.Tensor
    shift: torch.Tensor

    def _norm(self, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        squares = scale.square() * self.second + 2 * scale * shift * self.first + shift.square() * self.count
        return squares.sum(dim=-1).clamp(min=0).sqrt()

    def drift(self, scale: torch.Tensor, shift: torch.Tensor) -> float:
        """Relative change of the modulated features under another (scale, shift); the largest of the batch."""
        change = self._norm(scale - self.scale, shift - self.shift)
        return (change / self._norm(1 + self.scale, self.shift).clamp(min=1e-12)).max().item()


def features_of(tokens: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> Features:
    """Take the features of reference tokens (b, l, c) as they enter the first block; scale, shift: (b, c)."""
    norm = torch.nn.functional.layer_norm(tokens.float(), tokens.shape[-1:], eps=1e-6)
    return Features(tokens.shape[1], norm.sum(dim=1), norm.square().sum(dim=1), scale, shift)


@dataclass
class Entry:
    """What is kept for one conditioning.

    Attributes:
        signature: all that must be equal for it to be usable.
        shelf: keys and values by block.
        step, sigma: of the last complete refresh; None before it.
        features: for "drift".
    """

    signature: Hashable
    shelf: Shelf
    step: int | None = None
    sigma: float = 0.0
    features: Features | None = None


@dataclass
class ReferenceCache:
    """A run's kept keys and values, and its account of them.

    Attributes:
        calls, refreshes: model calls with references, and those of them that ran the whole sequence.
        peak_bytes: largest size of the store.
    """

    settings: ReusePolicy
    calls: int = 0
    refreshes: int = 0
    peak_bytes: int = 0
    on_close: Callable[[ReferenceCache], None] = lambda cache: None
    _entries: dict[Hashable, dict[Hashable, Entry]] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return sum(entry.shelf.nbytes for entry in self.entries())

    def entries(self) -> list[Entry]:
        return [entry for by_patching in self._entries.values() for entry in by_patching.values()]

    def entry(self, conditioning: Hashable, patching: Hashable, signature: Hashable) -> Entry:
        """The entry of a conditioning, made empty if there is none with this signature."""
        by_patching = self._entries.setdefault(conditioning, {})
        entry = by_patching.get(patching)
        if entry is None or entry.signature != signature:
            if entry is not None:
                by_patching.pop(patching).shelf.close()
            while len(by_patching) >= PATCHINGS_KEPT:
                by_patching.pop(next(iter(by_patching))).shelf.close()
            shelf = Shelf(self.settings.store == "fp8", self.settings.low_memory)
            entry = by_patching[patching] = Entry(signature, shelf)
        return entry

    def close(self) -> None:
        self.on_close(self)
        for entry in self.entries():
            entry.shelf.close()
        self._entries.clear()


def beside_kept(
    layout: Layout,
    k: torch.Tensor,
    v: torch.Tensor,
    old_k: torch.Tensor,
    old_v: torch.Tensor,
    references: Sequence[int],
) -> tuple[Layout, torch.Tensor, torch.Tensor]:
    """Layout, keys and values with kept ones behind a call's own; `references` are the numbers of keys of each."""
    spans, start = [], k.shape[2]
    for length in references:
        spans.append((start, start + length))
        start += length
    layout = Layout(layout.text, layout.image, tuple(spans))
    return layout, torch.cat((k, old_k), dim=2), torch.cat((v, old_v), dim=2)


class Reuse(AttentionHook):
    """One call's part in it: either a refresh, which writes, or a reuse, which reads.

    Args:
        cache: of the run.
        entries: one for each conditioning in the call's batch, in order.
        references: number of keys of each active reference.
        refresh: which of the two it is.
        moment: step and noise level of the call.
        modulation: (scale, shift) of the first block in this call, (b, c) each; None where nobody asks.
    """

    def __init__(
        self,
        cache: ReferenceCache,
        entries: Sequence[Entry],
        references: Sequence[int],
        refresh: bool,
        moment: tuple[int, float],
        modulation: tuple[torch.Tensor, torch.Tensor] | None = None,
    ):
        self.cache, self.entries, self.references, self.refresh = cache, entries, tuple(references), refresh
        self.moment, self.modulation = moment, modulation
        self._written: set[Block] = set()
        self._features: list[Features] = []

    def keys(self, block, layout, q, k, v):
        if self.refresh:
            self._write(block, layout, k, v)
            return layout, k, v
        pairs = [entry.shelf.read(block, k) for entry in self.entries]
        old_k, old_v = pairs[0] if len(pairs) == 1 else (torch.cat(parts) for parts in zip(*pairs, strict=True))
        return beside_kept(layout, k, v, old_k, old_v, self.references)

    def _write(self, block: Block, layout: Layout, k: torch.Tensor, v: torch.Tensor) -> None:
        start, end = layout.references[0][0], layout.references[-1][1]
        parts = (t[:, :, start:end].chunk(len(self.entries)) for t in (k, v))
        for entry, k_part, v_part in zip(self.entries, *parts, strict=True):
            entry.shelf.write(block, k_part, v_part)
        self._written.add(block)

    def watch(self, tokens: torch.Tensor) -> None:
        """Take the features of the reference tokens (b, l, c) that enter the first block, if anybody asks."""
        if self.refresh and self.modulation is not None:
            parts = (t.chunk(len(self.entries)) for t in (tokens, *self.modulation))
            self._features = [features_of(*part) for part in zip(*parts, strict=True)]

    def done(self, blocks: int) -> None:
        """The call is over. A refresh counts only if all of the model's `blocks` took part.

        Others may have answered the call without the model, or from its first block on.
        """
        self.cache.calls += 1
        self.cache.refreshes += self.refresh
        if self.refresh and len(self._written) == blocks:
            for n, entry in enumerate(self.entries):
                entry.step, entry.sigma = self.moment
                entry.features = self._features[n] if self._features else None
            self.cache.peak_bytes = max(self.cache.peak_bytes, self.cache.nbytes)


def patching_of(options: dict[str, Any]) -> Hashable:
    """Which blocks others have replaced in this call; passes that differ in it must not share features."""
    replaced = options.get("patches_replace", {}).get("dit", {})
    return frozenset((key, id(function)) for key, function in replaced.items())


def plan(
    cache: ReferenceCache,
    options: dict[str, Any],
    schedule: Sequence[float],
    place: int,
    sigma: float,
    signature: Hashable,
    references: Sequence[int],
    modulation: Callable[[], tuple[torch.Tensor, torch.Tensor]],
) -> Reuse | None:
    """Decide for one model call; None if the host does not say which conditionings it is for, or of too many tiles.

    Args:
        cache: of the run.
        options: the call's `transformer_options`; `uuids` names the conditionings in the batch.
        schedule: the run's noise levels; empty where the host does not say.
        place: which tile of the image this call is for, from 0.
        sigma: noise level of the call.
        signature: all that must be equal for kept keys and values to be usable.
        references: number of keys of each active reference.
        modulation: gives (scale, shift) of the first block in this call; asked for by "drift" only.
    """
    conditionings = options.get("uuids")
    if not conditionings or not schedule or place >= PLACES_KEPT:
        return None
    step = step_of(sigma, schedule)
    patching = patching_of(options)
    entries = [cache.entry((uuid, place), patching, signature) for uuid in conditionings]
    moved = modulation() if cache.settings.refresh == "drift" else None

    def is_due(n: int, entry: Entry) -> bool:
        if entry.step is None:
            return True
        drift = 0.0
        if moved is not None:
            drift = entry.features.drift(*(t.chunk(len(entries))[n] for t in moved))
        return refresh_is_due(cache.settings, step, sigma, entry.step, entry.sigma, drift)

    refresh = any(is_due(n, entry) for n, entry in enumerate(entries))
    return Reuse(cache, entries, references, refresh, (step, sigma), moved)

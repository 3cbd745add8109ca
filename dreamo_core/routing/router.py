"""The router, a hook on the joint attention: reads maps while blocks run, biases queries towards regions."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..attention.bias import NEVER
from ..attention.hook import AttentionHook
from ..attention.layout import Block, Layout
from ..attention.response import response_maps
from ..run.keys import RECORDER_KEY, ROUTING_KEY
from ..run.memo import Memo
from ..run.run import Run
from ..sequence.positions import Grid, token_grid
from ..sequence.reference import ReferenceSetting
from ..text.placeholders import shift_in_model
from .maps import similarity, word_maps
from .masks import blend, log_influence, min_max, regions_from_maps, smooth
from .record import Recorder, RoutingStep, as_planes
from .regions import RoutingConditioning, influence, paint
from .settings import RoutingSettings, chosen_blocks

_UNROUTED_TASK = "style"
"""A style belongs everywhere; only a region by hand confines it."""


@dataclass
class RoutingState:
    """What routing remembers from step to step of one run.

    Attributes:
        averages: by conditioning, image grid and batch size, each reference's averaged map (b, n) by its number.
    """

    averages: dict[Hashable, dict[int, torch.Tensor]] = field(default_factory=dict)


def steps_done(schedule: Sequence[float], sigma: float) -> float | None:
    """The part of the run's steps before this call, 0 to 1; None where the host does not say.

    A call that a sampler makes between two noise levels of the schedule counts to the later one.

    Args:
        schedule: the run's noise levels, falling, or rising when an image is turned into noise.
        sigma: noise level of the call; a hundred-thousandth of it is rounding.
    """
    if len(schedule) < 2:
        return None
    if schedule[-1] > schedule[0]:
        passed = sum(s < sigma * (1 - 1e-5) for s in schedule[:-1])
    else:
        passed = sum(s > sigma * (1 + 1e-5) for s in schedule[:-1])
    return passed / (len(schedule) - 1)


class Router(AttentionHook):
    """Routing in one model call.

    A reference's influence w on an image query is log w on that query's logits for its keys. Regions come from the
    maps of earlier calls of the run; so the first one is unrouted but for regions by hand, unless a pass in front of
    it reads maps (`wants_pass`).

    Args:
        settings: of this model.
        references: those that take part in this call.
        entry: what the conditioning says.
        blocks: to read maps from.
        grid: rows and columns of the image tokens.
        batch: samples in this call, of all conditionings together.
        context: number of text tokens that the call was given.
        options: this call's `transformer_options`.
        automatic: whether references without a region by hand are routed at all.
        device: of the model's inputs.
        run: the call's run.
        place: which tile of the image the call is for, from 0.
        sigma: its noise level.
        patch: side of a token in latent pixels.
    """

    def __init__(
        self,
        settings: RoutingSettings,
        references: Sequence[ReferenceSetting],
        entry: RoutingConditioning,
        blocks: Sequence[Block],
        grid: Grid,
        batch: int,
        context: int,
        options: dict[str, Any],
        automatic: bool,
        device: torch.device,
        run: Run,
        place: int,
        sigma: Callable[[], float],
        patch: int = 2,
    ):
        self._settings, self._entry, self._grid, self._context = settings, entry, grid, context
        self._blocks, self._smooth_at = frozenset(blocks), blocks[len(blocks) // 2]
        ids = list(options.get("uuids") or ["only"])
        self._ids: list[Hashable] = ids if batch % len(ids) == 0 else ["only"]
        self._shape = (batch // len(self._ids), grid[0] * grid[1])
        self._device, self._place = device, place
        self._whole = run.latent_size is None or token_grid(*run.latent_size, patch) == grid
        self._memo = run.part("memo", Memo)
        self._state: RoutingState = run.part("routing", RoutingState)
        self._recorder: Recorder | None = options.get(RECORDER_KEY)
        sigmas = options.get("sample_sigmas")
        self._done = steps_done(run.schedule(sigmas), sigma()) if sigmas is not None else None
        # The painted regions are the same at every step; their identity is the key, so they live as long as it does.
        key = ("painted", id(entry.regions), grid, self._shape[0], device, entry.area)
        self._painted = self._memo.get(
            key,
            lambda: (entry.regions, paint(entry.regions, grid, self._shape[0], device, entry.area, run.latent_size)),
        )[1]
        self._numbers = [reference.index for reference in references]
        self._routed = [automatic and reference.task != _UNROUTED_TASK for reference in references]
        self._seeking = [
            number
            for number, routed in zip(self._numbers, self._routed, strict=True)
            if number in self._painted.auto or (routed and number not in self._painted.fixed)
        ]
        self._reading = bool(self._seeking) and (self._done is None or self._done < settings.stop)
        self._sums: dict[int, torch.Tensor] = {}
        self._counts: dict[int, int] = {}
        self._similar: torch.Tensor | None = None
        self._set_influence(self._influence())

    def _key(self, id_: Hashable) -> Hashable:
        return (id_, self._place, self._grid, self._shape[0], self._entry.area)

    def _set_influence(self, w: torch.Tensor) -> None:
        others = (self._settings.text_influence, self._settings.reference_influence)
        self._w = w
        # Known without asking the device: what is found is never the whole image.
        known = [self._state.averages.get(self._key(id_), {}) for id_ in self._ids]
        aside = bool(self._painted.fixed) and any(self._routed)
        found = any(number in maps for maps in known for number in self._seeking)
        confined = self._painted.confines or aside or found
        self._acts = self._settings.strength > 0 and (min(others) < 1 or confined)
        self._bias: tuple[Hashable, torch.Tensor] | None = None

    def _influence(self) -> torch.Tensor:
        """w of every reference at every image token, from what is known now: (b, r, n)."""
        parts = []
        for id_ in self._ids:
            known = self._state.averages.get(self._key(id_), {})
            seeking = [number for number in self._seeking if number in known]
            found: dict[int, torch.Tensor] = {}
            if seeking:
                maps = torch.stack([known[number] for number in seeking], 1)
                allowed = torch.stack([self._allowed(number) for number in seeking], 1)
                s = self._settings
                regions = regions_from_maps(maps, s.gamma, s.threshold, s.soft, allowed)
                found = dict(zip(seeking, regions.unbind(1), strict=True))
            outside = self._settings.outside
            parts.append(
                influence(self._numbers, self._painted, found, self._routed, outside, self._shape, self._device)
            )
        return torch.cat(parts)

    def _allowed(self, number: int) -> torch.Tensor:
        """Where a reference may look for its region: (b, n)."""
        if number in self._painted.auto:
            allowed = self._painted.auto[number]
        else:
            allowed = torch.ones(self._shape, device=self._device)
            for region in self._painted.fixed.values():
                allowed = allowed * (1 - region)
        background = self._painted.background
        return allowed if background is None else allowed * (1 - background)

    def wants_pass(self) -> str | None:
        """Which pass has to run in front of this call to read maps, one of `MASKS_FROM`, or None.

        Raises:
            ValueError: a pass without references is wanted, and no word says where any of them belongs.
        """
        wanted = self._settings.masks_from
        if not self._reading or wanted == "previous step":
            return None
        if wanted == "extra first pass" and any(self._key(id_) in self._state.averages for id_ in self._ids):
            return None
        if wanted == "pass without references" and not any(self._word(number) for number in self._seeking):
            raise ValueError(
                "Routing is to find regions in a pass without references, where only words can tell, and the prompt "
                "names no reference; write [ref#1] with DreamO Text Encode, use DreamO Routing Words, or set "
                "masks_from to previous step."
            )
        return wanted

    def knows_nothing(self) -> bool:
        """Whether references seek their regions, not by words alone, and no map of theirs has been read yet."""
        seeks = self._reading and self._settings.source != "words"
        return seeks and not any(self._key(id_) in self._state.averages for id_ in self._ids)

    def _word(self, number: int) -> tuple[int, ...]:
        """Positions of a reference's word among the conditioning's text tokens; empty if it has none."""
        return self._entry.words[number - 1] if number <= len(self._entry.words) else ()

    def needed(self) -> bool:
        return self._reading or self._acts

    def query_bias(self, block, layout, q, k):
        if self._reading and block in self._blocks:
            self._read(block, layout, q, k)
        if not self._acts or not layout.references:
            return None
        # The same for all blocks of a call, unless somebody changes the sequence between them.
        key = (layout, q.shape[2], k.shape[2])
        if self._bias is None or self._bias[0] != key:
            self._bias = (key, self._make_bias(layout, q.shape[2], k.shape[2]))
        return self._bias[1]

    def _make_bias(self, layout: Layout, queries: int, keys: int) -> torch.Tensor:
        s = self._settings
        bias = torch.zeros(self._w.shape[0], queries, len(layout.references), device=self._device)
        scalar = lambda w: max(s.strength * math.log(w), NEVER) if w > 0 else NEVER  # noqa: E731
        bias[:, : layout.text] = scalar(s.text_influence)
        bias[:, layout.text : layout.text + layout.image] = log_influence(self._w, s.strength).transpose(1, 2)
        # References are among the queries only where nothing stands in for their keys.
        if s.reference_influence < 1 and queries == keys:
            for i, (start, end) in enumerate(layout.references):
                others = [j for j in range(len(layout.references)) if j != i]
                bias[:, start:end, others] = scalar(s.reference_influence)
        return bias

    def _read(self, block: Block, layout: Layout, q: torch.Tensor, k: torch.Tensor) -> None:
        image = (layout.text, layout.text + layout.image)
        source = self._settings.source
        spelled = [number for number in self._seeking if self._word(number)]
        shown = self._seeking if layout.references and q.shape[2] == k.shape[2] else []
        if not layout.references:
            shown = []
        elif source == "references":
            spelled = []
        elif source == "words":
            shown = [number for number in shown if number not in spelled]
        found: dict[int, list[torch.Tensor]] = {}
        if shown:
            spans = [layout.references[self._numbers.index(number)] for number in shown]
            for number, map_ in zip(shown, min_max(response_maps(q, k, image, spans)).unbind(1), strict=True):
                found.setdefault(number, []).append(map_)
        if spelled:
            moved = shift_in_model(self._context, layout.text)
            words = [tuple(p + moved for p in self._word(number)) for number in spelled]
            at = [self._memo.get(("word", w, k.device), lambda w=w: torch.tensor(w, device=k.device)) for w in words]
            of_words = min_max(word_maps(q, k, image, (moved, layout.text), at))
            for number, map_ in zip(spelled, of_words.unbind(1), strict=True):
                found.setdefault(number, []).append(map_)
        for number, maps in found.items():
            total = sum(maps) / len(maps)
            self._sums[number] = total + self._sums[number] if number in self._sums else total
            self._counts[number] = self._counts.get(number, 0) + 1
        if block == self._smooth_at and self._settings.smoothing > 0:
            self._similar = similarity(q, k, image, self._grid)

    def _absorb(self) -> None:
        """Take what has been read into the averages over steps."""
        for number, total in self._sums.items():
            maps = (total / self._counts[number]).unsqueeze(1)
            if self._similar is not None:
                maps = smooth(maps, self._similar, self._grid, self._settings.smoothing)
            for id_, part in zip(self._ids, min_max(maps)[:, 0].split(self._shape[0]), strict=True):
                averages = self._state.averages.setdefault(self._key(id_), {})
                averages[number] = blend(averages.get(number), part, self._settings.memory)
        self._sums, self._counts, self._similar = {}, {}, None

    def pass_done(self) -> None:
        """The pass in front of this call has read the maps; the call itself reads no more."""
        self._absorb()
        self._reading = False
        self._set_influence(self._influence())

    def finished(self) -> None:
        self._absorb()
        if self._recorder is not None:
            self._record(self._recorder)

    def _record(self, recorder: Recorder) -> None:
        planes = lambda values: as_planes(values, self._grid)  # noqa: E731
        empty = torch.zeros(self._shape, device=self._device)
        if self._entry.area is not None or not self._whole:
            recorder.add_part(self._numbers, self._shape[0])
            return
        rows = zip(self._ids, self._w.split(self._shape[0]), self._influence().split(self._shape[0]), strict=True)
        for id_, before, after in rows:
            known = self._state.averages.get(self._key(id_), {})
            maps = torch.stack([known.get(number, empty) for number in self._numbers], 1)
            step = RoutingStep(self._done or 0.0, tuple(self._numbers), planes(maps), planes(before), planes(after))
            recorder.add((id_, self._grid), step)


def make_router(
    options: dict[str, Any],
    references: Sequence[ReferenceSetting],
    entry: RoutingConditioning,
    depths: tuple[int, int],
    grid: Grid,
    batch: int,
    context: int,
    device: torch.device,
    run: Run,
    place: int,
    sigma: Callable[[], float],
    patch: int,
) -> Router | None:
    """The routing of a model call, or None if nothing asks for it.

    Regions by hand act without a `DreamO Routing` node too; references without one are then left alone.

    Args:
        depths: number of double and of single blocks of the model.
        Others as for `Router`.
    """
    settings: RoutingSettings | None = options.get(ROUTING_KEY)
    if settings is None and not entry.regions:
        return None
    automatic, settings = settings is not None, settings or RoutingSettings()
    if settings.strength == 0.0 and options.get(RECORDER_KEY) is None:
        return None
    blocks = chosen_blocks(settings.blocks, *depths)
    return Router(
        settings, references, entry, blocks, grid, batch, context, options, automatic, device, run, place, sigma, patch
    )

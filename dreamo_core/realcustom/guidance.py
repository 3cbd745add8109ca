"""The two branches of RealCustom++ in one evaluation of the model: where its words are, then the picture there.

The guidance branch is one more evaluation of the positive conditionings, with the text alone; the generation branch
is the evaluation that was asked for. Both go through whatever else is on the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ..routing.record import Recorder, RoutingStep, as_planes
from ..routing.regions import Painted, Region, RoutingConditioning, paint
from ..run.keys import REALCUSTOM_CALL_KEY, REALCUSTOM_KEY, RECORDER_KEY, ROUTING_CONDITIONING_KEY, RUN_KEY
from ..run.memo import Memo
from ..run.run import Run
from ..sequence.positions import Grid, token_grid
from .adding import Adder
from .masks import masks_from_maps
from .reading import AttentionPlace, Reader, chosen_layers
from .settings import EACH_STEP, PREVIOUS_STEP
from .subject import PlacedSubject, RealCustomConditioning

STEPS_TOLERANCE = 1e-4


@dataclass(frozen=True, eq=False)
class Found:
    """Masks of one conditioning, at one place of the image.

    Attributes:
        sigma: noise level that they were read at.
        subjects: numbers of the subjects.
        maps, masks: (b, r, n) each.
    """

    sigma: float
    subjects: tuple[int, ...]
    maps: torch.Tensor
    masks: torch.Tensor
    grid: Grid


@dataclass
class MaskStore:
    """A run's masks by conditioning and place."""

    found: dict[tuple, Found] = field(default_factory=dict)

    def close(self) -> None:
        self.found.clear()


@dataclass(frozen=True, eq=False)
class Part:
    """One conditioning of an evaluation.

    Attributes:
        uuid: the host's name for it.
        entry: what rides on it.
        words: by subject's number, positions that another node has named.
        regions: painted masks, the subjects' own among them.
        area: (h, w, y, x) of the latent, or None for all of it.
    """

    uuid: Any
    entry: RealCustomConditioning
    words: tuple[tuple[int, ...], ...]
    regions: tuple[Region, ...]
    area: tuple[int, int, int, int] | None

    def targets(self, subject: PlacedSubject) -> tuple[tuple[int, ...], ...]:
        """Positions of each word of a subject."""
        named = self.words[subject.number - 1] if subject.number <= len(self.words) else ()
        return (named,) if named else subject.words


def _value(part: dict, key: str) -> Any:
    held = part.get("model_conds", {}).get(key)
    return None if held is None else held.cond


def part_of(cond: dict, latent: torch.Size, sigma: float) -> Part | None:
    """What a conditioning of the host carries for us, or None where it does not or takes no part at this noise level.

    Raises:
        ValueError: it has regions or words for more subjects than it carries.
    """
    entry: RealCustomConditioning | None = _value(cond, REALCUSTOM_KEY)
    if entry is None or sigma > cond.get("timestep_start", math.inf) or sigma < cond.get("timestep_end", 0.0):
        return None
    named: RoutingConditioning = _value(cond, ROUTING_CONDITIONING_KEY) or RoutingConditioning()
    named.check(entry.count)
    area = cond.get("area")
    if area is not None:
        h, w, y, x = area
        area = (min(latent[-2] - y, h), min(latent[-1] - x, w), y, x)
    return Part(cond["uuid"], entry, named.words, (*entry.regions, *named.regions), area)


def without_ours(conds: Sequence[list[dict] | None]) -> list[list[dict] | None]:
    """The host's conditionings without what rides on them, so that positive and negative still share a batch."""
    ours = (REALCUSTOM_KEY, ROUTING_CONDITIONING_KEY)

    def stripped(cond: dict) -> dict:
        kept = {key: value for key, value in cond.get("model_conds", {}).items() if key not in ours}
        return {**cond, "model_conds": kept}

    return [None if part is None else [stripped(cond) for cond in part] for part in conds]


def steps_done(options: dict[str, Any], run: Run, sigma: float) -> float | None:
    """Part of the run's steps that is over at this noise level, 0 to 1; None where nobody samples."""
    sigmas = options.get("sample_sigmas")
    if sigmas is None:
        return None
    levels = run.schedule(sigmas)[:-1]
    return sum(level > sigma * (1 + STEPS_TOLERANCE) for level in levels) / max(1, len(levels))


@dataclass(eq=False)
class Call:
    """One evaluation of the model that reads maps, adds pictures, or both.

    Attributes:
        parts: the conditionings with subjects, by the number of their group and their uuid: for an area the host gives
            the negative a copy of the positive, uuid included.
        reads: which of those have their maps read.
        adds: whether pictures are added.
        sigma, done: noise level, and part of the steps that is over.
        model: what the core needs to know of the host's model.
        latent: (h, w) of the whole latent.
    """

    parts: dict[tuple[int, Any], Part]
    reads: frozenset
    adds: bool
    sigma: float
    done: float | None
    model: ModelFacts
    run: Run
    latent: tuple[int, int]
    recorder: Recorder | None = None

    @property
    def store(self) -> MaskStore:
        return self.run.part("realcustom masks", MaskStore)

    def active(self, part: Part) -> list[PlacedSubject]:
        known = self.model.percent_to_sigma
        return [subject for subject in part.entry.subjects if subject.active(self.sigma, known)]

    def positives(self) -> list[Part]:
        """The positive conditionings; where the negative is evaluated by itself, those of the evaluation before."""
        remembered = self.run.part("realcustom positives", list)
        positives = [part for part in self.parts.values() if not part.entry.negative]
        if positives:
            remembered[:] = positives
        return remembered

    def searched(self, part: Part) -> list[PlacedSubject]:
        """Active subjects whose place is found, not painted."""
        fixed = {region.reference for region in part.regions if not region.auto}
        return [subject for subject in self.active(part) if subject.number not in fixed]

    def painted(self, part: Part, grid: Grid, samples: int, device: torch.device) -> Painted:
        return paint(part.regions, grid, samples, device, part.area, self.latent)

    def reader(self, part: Part, grid: Grid) -> Reader:
        source = part.entry.settings.source
        words = [word for subject in self.searched(part) for word in part.targets(subject)]
        return Reader(words, source, chosen_layers(self.model.places, source), grid, self.model.exact_attention)

    def masks(self, part: Part, maps: torch.Tensor, grid: Grid) -> torch.Tensor:
        """Masks (b, words, n) from the maps of a part's searched words."""
        subjects, settings = self.searched(part), part.entry.settings
        painted = self.painted(part, grid, len(maps), maps.device)
        limits, gammas = [], []
        for subject in subjects:
            limit = _allowed(painted, subject.number, maps[:, 0])
            limits += [limit] * len(part.targets(subject))
            gammas += [subject.gamma] * len(part.targets(subject))
        limit = torch.stack(limits, 1)
        return masks_from_maps(maps * limit, gammas, settings.soft, settings.source.norm) * (limit > 0)

    def put(self, part: Part, place: int, reader: Reader) -> None:
        """Keep what a reader found: of each subject the largest of its words."""
        maps = reader.maps()
        if maps is None:
            return
        subjects, masks = self.searched(part), self.masks(part, maps, reader.grid)
        counts = [len(part.targets(subject)) for subject in subjects]
        joined = [torch.stack([words.amax(1) for words in of.split(counts, dim=1)], dim=1) for of in (maps, masks)]
        numbers = tuple(subject.number for subject in subjects)
        self.store.found[part.uuid, place] = Found(self.sigma, numbers, *joined, reader.grid)

    def found(self, part: Part, place: int) -> Found | None:
        return self.store.found.get((part.uuid, place))

    def influence(
        self, part: Part, place: int, grid: Grid, samples: int, device: torch.device
    ) -> dict[int, torch.Tensor]:
        """Where each active subject acts, by number: (b, n) in [0, 1]; those without a mask yet are left out."""
        painted, found = self.painted(part, grid, samples, device), self.found(part, place)
        result = {}
        for subject in self.active(part):
            if subject.number in painted.fixed:
                mask = painted.fixed[subject.number]
            elif found is not None and subject.number in found.subjects and found.masks.shape[-1] == grid[0] * grid[1]:
                mask = found.masks[:, found.subjects.index(subject.number)]
                # Another number of samples may be asked for than was read, where tiles come in batches.
                mask = mask[torch.arange(samples, device=mask.device) % len(mask)]
            else:
                continue
            result[subject.number] = mask if painted.background is None else mask * (1 - painted.background)
        return result

    def adder(self, part: Part, place: int, grid: Grid, samples: int, device: torch.device) -> Adder | None:
        """What the rows of a part see of pictures in a call, or None."""
        entry = part.entry
        if entry.negative:
            if entry.black is None:
                return None
            mask = self.negative_influence(place, grid, samples, device)
            pictures, masks = ([entry.black], [mask]) if mask is not None else ([], [])
        else:
            influence = self.influence(part, place, grid, samples, device)
            chosen = [subject for subject in self.active(part) if subject.number in influence]
            pictures = [subject.tokens for subject in chosen]
            masks = [subject.strength * influence[subject.number] for subject in chosen]
        if not pictures:
            return None
        memo = None if entry.settings.low_memory else self.run.part("realcustom keys and values", Memo)
        return Adder(pictures, masks, grid, entry.attention, memo, self.model.attention)

    def negative_influence(self, place: int, grid: Grid, samples: int, device: torch.device) -> torch.Tensor | None:
        """Where the negative sees its black picture: wherever a subject acts, as firmly: (b, n), or None."""
        total = None
        for part in self.positives():
            where = token_grid(*part.area[:2]) if part.area is not None else grid
            influence = self.influence(part, place, where, samples, device)
            strengths = {subject.number: subject.strength for subject in part.entry.subjects}
            masks = [strengths[number] * mask for number, mask in influence.items()]
            if not masks:
                continue
            # Masks of one conditioning hardly overlap, so their sum is the black picture of each where it acts.
            mask = torch.stack(masks).sum(0)
            if part.area is not None:
                mask = _pasted(mask, where, grid, part.area)
            total = mask if total is None else torch.maximum(total, mask)
        return total

    def record(self, part: Part, place: int, grid: Grid, samples: int, device: torch.device) -> None:
        """Tell the recorder what acted in this call."""
        if self.recorder is None or part.entry.negative:
            return
        numbers = tuple(subject.number for subject in part.entry.subjects)
        if place or part.area is not None:
            self.recorder.add_part(numbers, samples)
            return
        influence, found = self.influence(part, place, grid, samples, device), self.found(part, place)
        empty = torch.zeros(samples, grid[0] * grid[1], device=device)
        seen = {} if found is None else dict(zip(found.subjects, found.maps.unbind(1), strict=True))
        acted = as_planes(torch.stack([influence.get(number, empty) for number in numbers], 1), grid)
        maps = as_planes(torch.stack([seen.get(number, empty) for number in numbers], 1), grid)
        maps = maps / maps.amax((-2, -1), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)
        self.recorder.add((part.uuid, grid), RoutingStep(self.done or 0.0, numbers, maps, acted, acted))

    def apply(self, executor: Callable, x: torch.Tensor, options: dict[str, Any], call: Callable) -> torch.Tensor:
        """One call of the model with this evaluation's patches; `call` takes the changed options."""
        uuids = options.get("uuids") or ()
        parts = [self.parts.get(key) for key in zip(options.get("cond_or_uncond", ()), uuids, strict=False)]
        if not any(parts):
            return call(options)
        self.positives()
        place, rows = self.run.place(uuids), x.shape[0] // len(parts)
        grid = token_grid(*x.shape[-2:])
        readers = [self.reader(part, grid) if part is not None and part in self.reads else None for part in parts]
        adders = [
            self.adder(part, place, grid, rows, x.device) if self.adds and part is not None else None for part in parts
        ]
        patches = Patches(readers, adders, rows, tuple(x.shape[-2:]), self.model)
        result = call(patches.on(options))
        for part, reader in zip(parts, readers, strict=True):
            if reader is not None:
                self.put(part, place, reader)
            if part is not None and self.adds:
                self.record(part, place, grid, rows, x.device)
        return result


def _allowed(painted: Painted, number: int, like: torch.Tensor) -> torch.Tensor:
    """Where a subject may be found, (b, n) in [0, 1]: in its own region, not in another's, nor in the background."""
    free = painted.auto.get(number, torch.ones_like(like))
    for other, region in painted.fixed.items():
        if other != number:
            free = free * (1 - region)
    return free if painted.background is None else free * (1 - painted.background)


def _pasted(mask: torch.Tensor, at: Grid, grid: Grid, area: tuple[int, int, int, int]) -> torch.Tensor:
    """A mask (b, n) of an area of the latent, laid into the grid of the whole."""
    h, w, y, x = area
    plane = mask.new_zeros(len(mask), *grid)
    top, left = y // 2, x // 2
    part = mask.unflatten(-1, at)[:, : grid[0] - top, : grid[1] - left]
    plane[:, top : top + part.shape[1], left : left + part.shape[2]] = part
    return plane.flatten(1)


@dataclass(frozen=True, eq=False)
class ModelFacts:
    """What the core needs to know of the host's model.

    Attributes:
        places: its transformer blocks.
        attention: the host's attention, (q, k, v, heads, extra) to (b, n, c).
        exact_attention: (q, k, v, heads) to (b, n, c), never quantized.
        percent_to_sigma: the host's.
    """

    places: tuple[AttentionPlace, ...]
    attention: Callable
    exact_attention: Callable
    percent_to_sigma: Callable[[float], float]


@dataclass(eq=False)
class Patches:
    """Block replacements for one model call, around those that others have put there.

    Attributes:
        readers, adders: for each conditioning of the call, or None.
        rows: of the batch that each conditioning has.
        latent: (h, w) of the call.
    """

    readers: list[Reader | None]
    adders: list[Adder | None]
    rows: int
    latent: tuple[int, int]
    model: ModelFacts

    def on(self, options: dict[str, Any]) -> dict[str, Any]:
        """A copy of `transformer_options` with our replacements."""
        reading = [reader for reader in self.readers if reader is not None]
        cross = set().union(*(reader.layers.cross for reader in reading))
        own = set().union(*(reader.layers.own for reader in reading))
        adding = any(adder is not None for adder in self.adders)
        replace_ = options.get("patches_replace", {})
        attn1, attn2 = dict(replace_.get("attn1", {})), dict(replace_.get("attn2", {}))
        for place in self.model.places:
            if place.key in own:
                attn1[place.key] = self._wrapped(place, attn1, self._own)
            if adding or place.key in cross:
                attn2[place.key] = self._wrapped(place, attn2, self._cross)
        return {**options, "patches_replace": {**replace_, "attn1": attn1, "attn2": attn2}}

    def _wrapped(self, place: AttentionPlace, there: dict, patch: Callable) -> Callable:
        # Others name a block, or all blocks of a layer.
        before = there.get(place.key, there.get(place.key[:2]))

        # Reads and writes Python objects; a compiled model calls it as it is.
        @torch.compiler.disable
        def replacement(q, k, v, extra):
            if before is not None:
                out = before(q, k, v, extra)
            else:
                out = self.model.attention(q, k, v, extra["n_heads"], extra)
            return patch(place, q, k, out, extra)

        return replacement

    def _grid(self, place: AttentionPlace, count: int, extra: dict[str, Any]) -> Grid | None:
        """Rows and columns of so many tokens, or None where another node has merged or tiled them."""
        shape = extra.get("activations_shape")
        known = tuple(shape[-2:]) if shape is not None else tuple(-(-side // place.factor) for side in self.latent)
        return known if known[0] * known[1] == count else None

    def _chunks(self, readers_or_adders: list) -> list[tuple[int, Any]]:
        return [(at, one) for at, one in enumerate(readers_or_adders) if one is not None]

    def _own(self, place, q, k, out, extra):
        at = self._grid(place, q.shape[1], extra)
        if at is not None and len(q) == self.rows * len(self.readers):
            for n, reader in self._chunks(self.readers):
                rows = slice(n * self.rows, (n + 1) * self.rows)
                reader.own(place.key, q[rows], k[rows], extra["n_heads"], at)
        return out

    def _cross(self, place, q, k, out, extra):
        at = self._grid(place, q.shape[1], extra)
        if at is None or len(q) != self.rows * len(self.readers):
            return out
        heads = extra["n_heads"]
        for n, reader in self._chunks(self.readers):
            rows = slice(n * self.rows, (n + 1) * self.rows)
            reader.cross(place.key, q[rows], k[rows], heads, at)
        if not any(self.adders):
            return out
        pieces = list(out.split(self.rows))
        for n, adder in self._chunks(self.adders):
            seen = q[n * self.rows : (n + 1) * self.rows]
            pieces[n] = adder.add(place.name, seen, pieces[n], at, extra)
        return torch.cat(pieces)


def _wants_pass(call: Call, part: Part) -> bool:
    """Whether a positive conditioning needs its maps read at this noise level."""
    if part.entry.negative:
        return False
    wanted = {subject.number for subject in call.searched(part)}
    if not wanted:
        return False
    known = [found for (uuid, _), found in call.store.found.items() if uuid == part.uuid]
    if not known or any(not wanted <= set(found.subjects) for found in known):
        return True
    if call.done is not None and call.done >= part.entry.settings.stop - 1e-6:
        return False
    # One pass a noise level, however often samplers and other nodes call at it.
    return any(found.sigma != call.sigma for found in known)


def make_calc_cond_batch_wrapper(facts_of: Callable[[Any], ModelFacts]):
    """The wrapper for the host's CALC_COND_BATCH hook.

    Args:
        facts_of: maps the host's model to what the core needs to know of it.
    """

    def calc_cond_batch(executor, model, conds, x, timestep, model_options):
        sigma = float(timestep.flatten()[0])
        keyed = {(n, cond["uuid"]): cond for n, group in enumerate(conds) for cond in group or ()}
        found = {key: part_of(cond, x.shape, sigma) for key, cond in keyed.items()}
        parts = {key: part for key, part in found.items() if part is not None}
        stripped = without_ours(conds)
        if not parts:
            return executor(model, stripped, x, timestep, model_options)
        options = model_options.get("transformer_options", {})
        run = options.get(RUN_KEY) or Run()
        call = Call(
            parts, frozenset(), True, sigma, steps_done(options, run, sigma), facts_of(model), run,
            tuple(x.shape[-2:]), options.get(RECORDER_KEY),
        )  # fmt: skip
        wanted = [part for part in parts.values() if _wants_pass(call, part)]

        def evaluate(conds, call):
            with_call = {**model_options, "transformer_options": {**options, REALCUSTOM_CALL_KEY: call}}
            return executor(model, conds, x, timestep, with_call)

        passes = frozenset(part for part in wanted if part.entry.settings.masks_from == EACH_STEP)
        if passes:
            # Groups keep their numbers; one that is empty costs nothing.
            guided = [
                [cond for cond in group or () if parts.get((n, cond["uuid"])) in passes]
                for n, group in enumerate(stripped)
            ]
            evaluate(guided, replace(call, reads=passes, adds=False, recorder=None))
        reads = frozenset(part for part in wanted if part.entry.settings.masks_from == PREVIOUS_STEP)
        return evaluate(stripped, replace(call, reads=reads))

    return calc_cond_batch


def apply_model(executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs):
    """The wrapper for the host's APPLY_MODEL hook: puts the evaluation's replacements on this call."""
    call: Call | None = (transformer_options or {}).get(REALCUSTOM_CALL_KEY)
    if call is None:
        return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)

    def run(options):
        return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)

    return call.apply(executor, x, transformer_options, run)

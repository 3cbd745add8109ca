"""The model patch: one wrapper around the host's `apply_model` that reads what rides on the conditioning.

It keeps nothing between calls but in the run's own `Run`. What a call needs is put into that call's own copy of
`transformer_options`, so a conditioning without references, or a run that fails halfway, leaves nothing behind.

`apply_model` rather than the diffusion model's forward is wrapped because the noise schedule is at hand there (for
start and end percent) and because a compiled forward then never sees our keyword.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..attention.curve import CURVES
from ..attention.detail import Detail
from ..attention.hook import AttentionHook
from ..attention.looks import Looks
from ..attention.strength import Strength
from ..reuse.cache import ReferenceCache, Reuse, plan
from ..reuse.policy import CONSTANT, EXACT, ReusePolicy
from ..routing.regions import RoutingConditioning
from ..routing.router import make_router, steps_done
from ..run.keys import CONDITIONING_KEY, POLICY_KEY, ROUTING_CONDITIONING_KEY, ROUTING_KEY, RUN_KEY, STORE_KEY
from ..run.memo import Memo
from ..run.run import Run
from ..sequence.placed import PlacedReference
from ..sequence.positions import AS_TRAINED, Grid, ImagePositions, diagonal_offsets, token_grid
from ..sequence.pruning import kept_tokens
from ..sequence.reference import ReferenceConditioning, ReferenceSetting
from ..sequence.tokens import ReferenceSequence
from .constant import ReferencePass, constant_keys
from .families import family_of
from .families.family import DIAGONAL, TIMESTEP_ZERO


def kept_of(setting: ReferenceSetting, grid: Grid, policy: ReusePolicy) -> tuple[int, ...] | None:
    """Tokens of a reference that stay in the sequence, or None if all do."""
    if not policy.prune or setting.foreground is None or setting.foreground.grid != grid:
        return None
    kept = kept_tokens(setting.foreground, policy.margin, policy.keep_ratio)
    return None if len(kept) == grid[0] * grid[1] else kept


def place_references(
    conditioning: ReferenceConditioning,
    latents: list[torch.Tensor],
    active: list[int],
    image_shape: torch.Size,
    patch: int,
    policy: ReusePolicy = EXACT,
    memo: Memo | None = None,
    positions: ImagePositions | None = AS_TRAINED,
) -> tuple[int, list[PlacedReference]]:
    """Number of image tokens, and the references that the host is to make tokens of.

    A reference that is inactive in this call keeps its place, so the others do not jump when it comes or goes. On the
    diagonal that needs nothing; where the host places them it has to see them all, and those leave again.

    Args:
        positions: of the image; None where the host places references, else they go on along the diagonal.
    """
    memo = memo or Memo()
    image = token_grid(*image_shape[-2:], patch)
    grids = [token_grid(*latent.shape[-2:], patch) for latent in latents]
    on_diagonal = positions is not None
    offsets = diagonal_offsets(image, grids, positions) if on_diagonal else [None] * len(grids)
    shift = positions.shift[0] if on_diagonal else 0.0
    entering = []
    for n in active if on_diagonal else range(len(grids)):
        key = ("kept tokens", conditioning.settings[n], grids[n], policy)
        kept = memo.get(key, lambda key=key: kept_of(*key[1:])) if n in active else ()
        entering.append(PlacedReference(conditioning.settings[n], grids[n], offsets[n], kept, shift))
    return image[0] * image[1], entering


def image_positions(options: dict[str, Any]) -> ImagePositions:
    """Where the host's *Scale RoPE* puts the image in this call."""
    rope = options.get("rope_options")
    if rope is None:
        return AS_TRAINED
    scale = (rope.get("scale_y", 1.0), rope.get("scale_x", 1.0))
    return ImagePositions(scale, (rope.get("shift_t", 0.0), rope.get("shift_y", 0.0), rope.get("shift_x", 0.0)))


def sizes(latents: Sequence[torch.Tensor]) -> str:
    return ", ".join(f"{latent.shape[-2]} × {latent.shape[-1]}" for latent in latents)


def own_latents(
    conditioning: ReferenceConditioning, riding: list[torch.Tensor], model: Any, x: torch.Tensor, run: Run
) -> list[torch.Tensor]:
    """The call's reference latents, (b, 16, h, w) each, scaled for the model.

    Those that ride on the conditioning may have been cut to a tile by an upscaler; those of `DreamO Apply` are not.

    Raises:
        ValueError: another node has added or removed some.
    """
    if len(riding) != len(conditioning.settings):
        raise ValueError(
            f"This conditioning carries {len(riding)} reference latents but DreamO Apply put "
            f"{len(conditioning.settings)} there; add references to the DreamO chain instead of using "
            "ReferenceLatent on the same conditioning."
        )
    batch = x.shape[0]
    if not conditioning.latents:
        # A wrapper that puts several tiles into one call repeats tensors, but no lists of them.
        return [latent.repeat(-(-batch // latent.shape[0]), 1, 1, 1)[:batch] for latent in riding]
    given = sizes(conditioning.latents)
    if sizes(riding) != given and run.once(f"changed latents {given}"):
        logging.warning(
            f"DreamO: another node has changed the reference latents on the conditioning ({given} became "
            f"{sizes(riding)}); the references of DreamO Apply are used as they were."
        )

    def prepared() -> tuple[ReferenceConditioning, list[torch.Tensor]]:
        scaled = [model.process_latent_in(latent).to(x.device) for latent in conditioning.latents]
        # The key is the conditioning's identity, so it has to live as long as the key does.
        return conditioning, [latent.expand(batch, -1, -1, -1) for latent in scaled]

    return run.part("memo", Memo).get(("latents", id(conditioning), batch, x.device), prepared)[1]


@dataclass
class Entering:
    """Whether the model has asked for what we add to it, in any call of a run; and whether it was missed in one."""

    entered: bool = False
    missed: bool = False

    def close(self) -> None:
        if self.missed and not self.entered:
            logging.warning(
                "DreamO: in this run another node answered every model call that had references, so they may have "
                "acted on nothing."
            )


def check_entered(sequence: ReferenceSequence, run: Run, replaced: str | None) -> None:
    """Raise ValueError if the model ran and skipped what we add; once it has not, in a run, it will not.

    Args:
        sequence: of the call that has just been made.
        replaced: which pack's forward pass the model runs, or None if it is the host's. The host's own asks always,
            so if it has not, another node has answered in its place (EasyCache does).
    """
    so_far = run.part("entering", Entering)
    so_far.entered |= sequence.entered
    if so_far.entered or not sequence.needs_entering():
        return
    so_far.missed = True
    if replaced is not None:
        raise ValueError(
            f"{replaced} has replaced the forward pass of this model by its own, which leaves out what "
            "references need: their embeddings, strength, regions, routing and speed would act on nothing. Bypass that "
            "node; the host's EasyCache and DreamO Speed save time beside references."
        )


def log_account(cache: ReferenceCache) -> None:
    """Tell what reuse did in a run and what it held."""
    if cache.calls:
        where = "the computer's memory" if cache.settings.low_memory else "the device's memory"
        logging.info(
            f"DreamO: references ran in {cache.refreshes} of {cache.calls} model calls and were reused in the others; "
            f"their keys and values took {cache.peak_bytes / 2**20:.0f} MiB of {where}."
        )


def plan_reuse(
    sigma: Callable[[], float],
    x: torch.Tensor,
    active: list[int],
    placed: list[PlacedReference],
    options: dict[str, Any],
    run: Run,
    place: int,
    modulation: Callable[[], tuple[torch.Tensor, torch.Tensor]],
) -> Reuse | None:
    """The call's part in keeping keys and values from step to step, or None where nothing is kept."""
    policy: ReusePolicy = options.get(POLICY_KEY, EXACT)
    if not policy.reuses:
        return None
    cache = run.part("reuse", lambda: ReferenceCache(policy, on_close=log_account))
    # Of one conditioning: which others share its batch may change from step to step.
    shape = (x.shape[0] / max(1, len(options.get("uuids") or ())), *x.shape[1:])
    signature = (tuple(active), tuple(placed), shape, x.dtype, x.device)
    sigmas = options.get("sample_sigmas")
    schedule = run.schedule(sigmas) if sigmas is not None else []
    return plan(cache, options, schedule, place, sigma(), signature, [r.tokens for r in placed], modulation)


def patched_options(options: dict[str, Any], sequence: ReferenceSequence, masked: bool) -> dict[str, Any]:
    """A copy of `transformer_options` with this call's patches added after those already there.

    Args:
        masked: whether the call has an attention mask, which was made for text and image alone.
    """
    patches = options.get("patches", {})
    options = {**options, "patches": {**patches, "post_input": [*patches.get("post_input", []), sequence.post_input]}}
    if masked or sequence.needs_attention():
        options["optimized_attention_override"] = sequence.attention_override
    return options


def plain_references(latents: list[torch.Tensor] | None) -> ReferenceConditioning | None:
    """What stock nodes put on a conditioning, as if `DreamOApply` had without embeddings."""
    return ReferenceConditioning(()).covering(len(latents)) if latents else None


def strength_of(
    settings: Sequence[ReferenceSetting],
    memo: Memo,
    depths: tuple[int, int],
    options: dict[str, Any],
    run: Run,
    sigma: Callable[[], float],
) -> Strength:
    """The strengths of a call's references, with their curves."""
    sigmas = options.get("sample_sigmas")

    def done() -> float:
        part = steps_done(run.schedule(sigmas), sigma()) if sigmas is not None else None
        # Without a schedule the noise level stands for it.
        return 1.0 - sigma() if part is None else part

    curves = [CURVES[setting.curve] for setting in settings]
    return Strength([setting.strength for setting in settings], memo, curves, done, depths)


def kept_in(entering: Sequence[PlacedReference]) -> list[tuple[int, ...] | None]:
    return [reference.kept for reference in entering]


def kept_of_kept(entering: Sequence[PlacedReference], best: Sequence[tuple[int, ...]]) -> list[tuple[int, ...] | None]:
    """Which tokens of each reference stay, where `best` counts among those of the active ones that were there."""
    best = iter(best)
    result = []
    for reference in entering:
        there = range(reference.whole) if reference.kept is None else reference.kept
        result.append(tuple(there[n] for n in next(best)) if reference.tokens else reference.kept)
    return result


def say_that_tiles_have_no_place(run: Run) -> None:
    if run.once("tiles"):
        logging.warning(
            "DreamO: the model is run tile by tile and nobody says where a tile is, so painted regions are laid over "
            "each tile as if it were the whole image; sample without tiles, or take the regions out."
        )


def announcer(run: Run) -> Callable[[str], None]:
    """Says in the log, once a run, in which form the bias on references is added."""

    def announce(form: str) -> None:
        if run.once(f"form {form}"):
            logging.info("DreamO: the bias on references is added in its %s form.", form)

    return announce


def make_apply_model_wrapper(choose_attention, first_modulation, replaced_forward, fingerprint):
    """The wrapper for the host's APPLY_MODEL hook.

    Args:
        choose_attention: maps the host's attention function and the form of a bias to a function that takes it.
        first_modulation: maps the host's model, its family, noise level and conditioning to (scale, shift) of the
            first block.
        replaced_forward: says whose forward pass a Flux runs, None for the host's own.
        fingerprint: names the weights of the host's model.
    """

    def apply_model(executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs):
        conditioning: ReferenceConditioning | None = kwargs.pop(CONDITIONING_KEY, None)
        entry: RoutingConditioning | None = kwargs.pop(ROUTING_CONDITIONING_KEY, None)
        options = transformer_options or {}
        riding, method = kwargs.get("ref_latents") or [], kwargs.get("ref_latents_method")
        policy: ReusePolicy = options.get(POLICY_KEY, EXACT)
        if conditioning is None and (entry is not None or ROUTING_KEY in options or policy.acts):
            conditioning = plain_references(riding)
        if conditioning is None:
            return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)

        conditioning = conditioning.covering(len(riding))
        kwargs.pop("ref_latents", None)
        kwargs.pop("ref_latents_method", None)
        # Outside a sampling run nothing can be kept; a call by itself gets a run of its own.
        run = options.get(RUN_KEY) or Run()
        model = executor.class_obj
        latents = own_latents(conditioning, riding, model, x, run)
        # Read from the device at most once a call, and only where somebody asks.
        sigma = functools.cache(lambda: float(t.flatten()[0]))
        entry = entry or RoutingConditioning()
        entry.check(len(conditioning.settings))
        active = conditioning.active(sigma, model.model_sampling.percent_to_sigma)
        if not active:
            if not conditioning.noise_row or conditioning.embeddings is None:
                return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)
            rows, columns = token_grid(*x.shape[-2:], model.diffusion_model.patch_size)
            alone = ReferenceSequence(rows * columns, (), conditioning.embeddings, noise_row=True)
            result = executor(x, t, c_concat, c_crossattn, control, patched_options(options, alone, False), **kwargs)
            check_entered(alone, run, replaced_forward(model.diffusion_model))
            return result

        memo, place = run.part("memo", Memo), run.place(options.get("uuids"))
        network = model.diffusion_model
        family = family_of(network)
        method = family.method(network, method)
        positions = image_positions(options) if method == DIAGONAL else None
        patch, depths = network.patch_size, family.depths(network)
        count, entering = place_references(conditioning, latents, active, x.shape, patch, policy, memo, positions)
        uuids = options.get("uuids")
        which = (tuple(uuids or ()), place, tuple(entering), x.shape[0], x.device)
        looks = None
        if policy.keep_share < 1.0:
            chosen: dict = run.part("looked at", dict)
            looks = Looks() if which not in chosen else None
            entering = [
                replace(r, kept=kept) for r, kept in zip(entering, chosen.get(which, kept_in(entering)), strict=True)
            ]
        placed = [reference for reference in entering if reference.tokens]
        level = torch.zeros_like(t) if method == TIMESTEP_ZERO else t
        modulation = lambda: first_modulation(model, family, level, **kwargs)  # noqa: E731
        settings = [reference.setting for reference in placed]
        grid, context = token_grid(*x.shape[-2:], patch), c_crossattn.shape[1]
        entry = entry.named_by(conditioning.placeholders, len(conditioning.settings))
        entry = entry.words_moved(family.text_moved(context, entry.text))
        router = make_router(
            options, settings, entry, depths, grid, x.shape[0], context, x.device, run, place, sigma, patch
        )
        hooks: list[AttentionHook] = [
            strength_of(settings, memo, depths, options, run, sigma),
            Detail([setting.detail for setting in settings]),
            *([looks] if looks is not None else []),
            *([router] if router is not None else []),
        ]
        sequence = ReferenceSequence(
            count,
            entering,
            conditioning.embeddings,
            hooks,
            options.get("optimized_attention_override"),
            choose_attention,
            memo=memo,
            form=options[ROUTING_KEY].form if ROUTING_KEY in options else "auto",
            announce=announcer(run),
            noise_row=conditioning.noise_row,
        )
        seen = [latents[n] for n in active] if positions is not None else latents
        constant = reuse = None
        if policy.refresh == CONSTANT:
            alone = ReferencePass(executor, x, t, c_crossattn, options, kwargs, sequence, seen, method, patch)
            weights = lambda: run.part("fingerprint", lambda: fingerprint(model))  # noqa: E731
            constant = constant_keys(
                alone, policy, options.get(STORE_KEY), run, sum(depths), weights, which if uuids else None
            )
        if constant is None:
            reuse = plan_reuse(sigma, x, active, placed, options, run, place, modulation)
        if constant is not None:
            sequence = replace(sequence, hooks=[constant, *hooks], in_sequence=False)
        elif reuse is not None:
            sequence = replace(sequence, hooks=[reuse, *hooks], in_sequence=reuse.refresh, watch=reuse.watch)
        with_references = {**kwargs, "ref_latents": seen, "ref_latents_method": method}

        def call(sequence: ReferenceSequence) -> torch.Tensor:
            arguments = with_references if sequence.references and sequence.in_sequence else kwargs
            masked = kwargs.get("attention_mask") is not None
            with_patches = patched_options(options, sequence, masked)
            result = executor(x, t, c_concat, c_crossattn, control, with_patches, **arguments)
            check_entered(sequence, run, replaced_forward(network))
            return result

        wanted = router.wants_pass() if router is not None else None
        if constant is not None and wanted is None and router is not None and router.knows_nothing():
            # No reference is ever among the queries, so its map has to come from a pass of its own.
            wanted = "extra first pass"
        if entry.regions and entry.area is None and run.latent_size not in (None, tuple(x.shape[-2:])):
            say_that_tiles_have_no_place(run)
        # What is kept from step to step is none of these passes' business.
        if wanted == "extra first pass":
            call(replace(sequence, hooks=hooks, in_sequence=True, watch=None))
        elif wanted == "pass without references":
            call(replace(sequence, entering=(), embeddings=None, hooks=[router], watch=None))
        if wanted is not None:
            router.pass_done()
        out = call(sequence)
        if reuse is not None:
            reuse.done(sum(depths))
        if looks is not None:
            best = looks.best(policy.keep_share, sum(depths))
            if best is not None:
                chosen[which] = kept_of_kept(entering, best)
        for hook in hooks:
            hook.finished()
        return out

    return apply_model

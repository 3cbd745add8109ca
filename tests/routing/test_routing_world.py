"""Routing where the right answer is known: a Flux with weights set by hand (`colour_world`), through the sampler."""

import pytest
import torch
from colour_world import colour_dreamo, colour_flux, painted, solid
from dreamo_routed.dreamo_core.host.routing import sample_routed, with_routing
from dreamo_routed.dreamo_core.routing.settings import RoutingSettings
from support import apply_dreamo, make_conditioning, sample

EQUAL = {0: (2, 2, 12, 10), 1: (8, 12, 18, 20)}
UNEQUAL = {0: (2, 2, 14, 12), 1: (15, 12, 19, 19)}
"""Rectangles on a grid of 20 × 20 tokens: a fifth of the image each; 30 % and 7 %."""

ADAPTIVE = RoutingSettings(gamma=0.5, threshold=0.5)


def iou(a, b):
    return ((a & b).sum() / (a | b).sum()).item()


def run(leak, settings, regions, seed=1, references=2, **options):
    """Regions found, the true masks, and how much of reference i has arrived at each token, (2, 20, 20)."""
    latent, masks = painted(regions)
    how = {"seed": seed, "steps": 20, "scheduler": "simple", "denoise": 0.4, **options}
    chain = tuple(solid(i) for i in range(references))
    patched, positive = apply_dreamo(colour_flux(leak=leak), make_conditioning(), chain, colour_dreamo())
    latents = {"samples": latent}
    model = with_routing(patched, settings)
    out, maps = sample_routed(
        model, positive, make_conditioning(9), latents, False, cfg=1.0, sampler_name="euler", **how
    )
    plain = sample(colour_flux(leak=leak), make_conditioning(), latent=latent, **how)
    # Only references move these channels, so without them they keep the noise, which is the same.
    arrived = (plain - out["samples"])[0, 8 + 1 : 8 + 3] * 0.3611
    return maps.last()[1][:, 0] > 0, masks, arrived.unfold(1, 2, 2).unfold(2, 2, 2).mean((-1, -2))


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(
    # The noise at the edges counts for more in a small region.
    "regions, settings, wanted",
    [(EQUAL, RoutingSettings(), 0.9), (UNEQUAL, ADAPTIVE, 0.85)],
    ids=["default", "adaptive"],
)
def test_routing_finds_the_regions(regions, settings, wanted, seed):
    found, masks, _ = run(0.0, settings, regions, seed)
    scores = [iou(found[i], masks[i]) for i in (0, 1)]
    print(f"\nIoU of both regions: {scores[0]:.3f} {scores[1]:.3f}", end="")
    assert min(scores) >= wanted


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("masks_from", ["previous step", "extra first pass"])
def test_routing_removes_a_leak(masks_from, seed):
    """What reaches the region of one colour from the reference of the other, with cross-talk in the weights."""
    _, masks, before = run(0.5, RoutingSettings(strength=0.0), EQUAL, seed)
    found, _, after = run(0.5, RoutingSettings(masks_from=masks_from), EQUAL, seed)
    _, _, clean = run(0.0, RoutingSettings(strength=0.0), EQUAL, seed)
    leaks = lambda arrived: torch.stack([arrived[1][masks[0]].mean(), arrived[0][masks[1]].mean()])  # noqa: E731
    wanted = lambda arrived: torch.stack([arrived[i][masks[i]].mean() for i in (0, 1)])  # noqa: E731
    removed = 1 - leaks(after) / leaks(before)
    kept = wanted(after) / wanted(before)
    print(
        f"\nleak: clean {leaks(clean).tolist()}, with cross-talk {leaks(before).tolist()}, "
        f"routed {leaks(after).tolist()}"
        f"\nremoved {removed.tolist()}, wanted kept {kept.tolist()}, "
        f"IoU {[round(iou(found[i], masks[i]), 3) for i in (0, 1)]}",
        end="",
    )
    # The cross-talk is there to be removed, and what belongs there stays.
    assert (leaks(before) > 5 * leaks(clean).clamp(min=0.01)).all()
    assert (removed >= 0.9).all() and (kept > 0.85).all()
    assert min(iou(found[i], masks[i]) for i in (0, 1)) >= 0.9


def test_without_overlap_even_with_equal_references():
    """Two references of one colour: every token goes to one of them at most."""
    latent, _ = painted({0: (2, 2, 12, 10)})
    chain = (solid(0), solid(0))
    patched, positive = apply_dreamo(colour_flux(), make_conditioning(), chain, colour_dreamo())
    _, maps = sample_routed(
        with_routing(patched, RoutingSettings()), positive, make_conditioning(9), {"samples": latent}, False,
        seed=1, steps=8, cfg=1.0, sampler_name="euler", scheduler="simple", denoise=0.4,
    )  # fmt: skip
    assert (maps.last()[1] > 0).sum(0).max() <= 1

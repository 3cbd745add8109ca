"""References that the host places itself, on small models of its own classes: strength, regions, routing, speed."""

import comfy.ldm.flux.layers
import comfy.ldm.flux.math
import comfy.ldm.modules.attention
import comfy.model_management
import pytest
import torch
from comfy.ldm.flux.math import apply_rope
from comfy.patcher_extension import WrappersMP
from dreamo_routed.dreamo_core.host.conditioning import control_reference
from dreamo_routed.dreamo_core.host.flux import with_references
from dreamo_routed.dreamo_core.host.reuse import with_policy
from dreamo_routed.dreamo_core.host.routing import add_region, sample_routed, set_words, with_routing
from dreamo_routed.dreamo_core.reuse.policy import ReusePolicy
from dreamo_routed.dreamo_core.routing.regions import make_region
from dreamo_routed.dreamo_core.routing.settings import RoutingSettings
from dreamo_routed.dreamo_core.sampling.families import FAMILIES, family_of
from dreamo_routed.minidreamo.host import small_models
from dreamo_routed.nodes.reference_control import DreamOReferenceControl
from failures import cancelling
from support import make_conditioning, record, sample
from worlds import SIZES, WORLDS, World

CONTROL = {"reference": 1, "strength": 1.0, "start_percent": 0.0, "end_percent": 1.0, "task": "subject"}
CONTROL |= {"detail": 1.0, "curve": "even"}


@pytest.fixture(params=WORLDS, ids=str)
def world(request):
    return request.param


def controlled(model, positive, **values):
    return DreamOReferenceControl.execute(model, positive, **{**CONTROL, **values}).result


def sampled(world, model, positive, batch=1, **options):
    return sample(model, positive, latent=world.latent(batch=batch), **options)


def half(width=8):
    mask = torch.zeros(1, 6, width)
    mask[..., : width // 2] = 1
    return mask


def test_every_family_knows_its_own():
    found = [family_of(world.model().model.diffusion_model).name for world in WORLDS]
    assert found == [world.family for world in WORLDS]
    assert {family.name for family in FAMILIES} == set(found)


@pytest.mark.parametrize("cfg, batch", [(1.0, 1), (2.5, 2)])
def test_strength_1_and_no_regions_is_the_host_bit_for_bit(world, cfg, batch):
    model = world.model()
    positive, negative = world.positive(), world.positive(2, make_conditioning(9))
    plain = sampled(world, model, positive, batch, negative=negative, cfg=cfg)
    assert not torch.equal(plain, sampled(world, model, make_conditioning(), batch, negative=negative, cfg=cfg))
    patched, ours = controlled(model, positive)
    assert torch.equal(sampled(world, patched, ours, batch, negative=negative, cfg=cfg), plain)
    assert torch.equal(sampled(world, patched, positive, batch, negative=negative, cfg=cfg), plain)
    speedy = with_policy(model, ReusePolicy(refresh="sigma distance", sigma_distance=0.0))
    assert torch.equal(sampled(world, speedy, ours, batch, negative=negative, cfg=cfg), plain)


def test_without_references_it_is_the_host_bit_for_bit(world):
    model = world.model()
    plain = sampled(world, model, make_conditioning())
    assert torch.equal(sampled(world, with_routing(model, RoutingSettings()), make_conditioning()), plain)


def test_strength_0_is_without_that_reference(world):
    model = world.model()
    patched, gone = controlled(model, world.positive(2), reference=2, strength=0.0)
    plain = sampled(world, model, world.positive(1))
    assert torch.allclose(sampled(world, patched, gone), plain, atol=1e-5)
    patched, gone = controlled(model, world.positive(2), reference=0, strength=0.0)
    assert torch.equal(sampled(world, patched, gone), sampled(world, model, make_conditioning()))
    # And a strength of next to nothing leads there.
    patched, faint = controlled(model, world.positive(2), reference=2, strength=1e-9)
    assert torch.allclose(sampled(world, patched, faint), plain, atol=1e-3)


def test_a_reference_out_of_its_range_keeps_the_places_of_the_others(world):
    """The first one gone, the second stands where it stood: as if nobody could see the first."""
    model = world.model()
    patched, gone = controlled(model, world.positive(2), reference=1, end_percent=0.0, start_percent=0.0)
    out = sampled(world, patched, gone, steps=1)
    # At the first step it still takes part; so leave it to the second step.
    assert torch.equal(out, sampled(world, model, world.positive(2), steps=1))
    patched, gone = controlled(model, world.positive(2), reference=1, strength=0.0)
    unseen_model, unseen = controlled(model, world.positive(2), reference=1, strength=1e-30)
    # Its own queries still look at the picture, but no one looks at them.
    assert torch.allclose(sampled(world, patched, gone), sampled(world, unseen_model, unseen), atol=2e-5)


@pytest.mark.parametrize("form", ["low-rank", "dense"])
def test_the_forms_of_a_bias_agree(world, form):
    model = world.model()
    patched, positive = controlled(model, world.positive(2), strength=0.4)
    positive = add_region(positive, make_region(2, half(), 0, False, False))
    routed = lambda form: with_routing(patched, RoutingSettings(form=form))  # noqa: E731
    auto, other = sampled(world, routed("auto"), positive), sampled(world, routed(form), positive)
    assert torch.allclose(auto, other, atol=1e-5)
    assert (auto - sampled(world, model, world.positive(2))).abs().max() > 1e-3


def test_outside_of_its_region_a_reference_is_not_seen(world):
    """Gradients say so: with a region, tokens outside do not depend on the reference within one attention."""
    model = world.model(depth=1, depth_single_blocks=0)
    latents = world.references(1)

    def out(latent, region):
        positive = world.with_latents([latent])
        if region:
            positive = add_region(positive, make_region(1, half(), 0, True, False))
        return sampled(world, with_references(model), positive, steps=1)

    changed = latents[0] + 1.0
    middle = 4 * world.patch
    difference = (out(latents[0], True) - out(changed, True)).abs()
    assert difference[..., :middle].max() > 1e-4 and difference[..., middle:].max() < 1e-6
    assert (out(latents[0], False) - out(changed, False)).abs()[..., middle:].max() > 1e-4


def test_the_routed_sampler_finds_regions(world):
    model = with_routing(world.model(), RoutingSettings())
    settings = {"seed": 1, "steps": 3, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    latent, maps = sample_routed(
        model, world.positive(2), make_conditioning(9), {"samples": world.latent()}, False, **settings
    )
    assert maps.size == (6 * 16, 8 * 16)
    _, regions = maps.last()
    assert regions.shape[0] == 2 and (regions < 1).any() and (regions > 0).any()
    assert torch.isfinite(latent["samples"]).all()


def test_reuse_runs_the_references_once(world):
    model, calls = record(with_policy(world.model(), ReusePolicy(refresh="never")))
    sampled(world, model, world.positive(2))
    assert [len(call.ref_latents or ()) for call in calls] == [2, 0, 0]
    expected = slow_reuse_of(world, calls[0], calls[1])
    assert torch.allclose(calls[1].output, expected, atol=1e-5)


def slow_reuse_of(world, first, second):
    """The second call by hand: the host alone, with the first call's keys and values of the references put in."""
    network, kept, tokens = world.model().model.diffusion_model, [], sum(rows * columns for rows, columns in SIZES[:2])

    def capturing(q, k, v, pe, **_):
        q, k = apply_rope(q, k, pe)
        kept.append((k[:, :, -tokens:], v[:, :, -tokens:]))
        return plain_attention(q, k, v)

    def appending(q, k, v, pe, **_):
        q, k = apply_rope(q, k, pe)
        old_k, old_v = kept.pop(0)
        return plain_attention(q, torch.cat((k, old_k), 2), torch.cat((v, old_v), 2))

    method = {} if world.method is None else {"ref_latents_method": world.method.split("/")[0]}
    for call, attention, latents in ((first, capturing, first.ref_latents), (second, appending, None)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(comfy.ldm.flux.layers, "attention", attention)
            arguments = (call.x, call.timestep, call.context, call.y, call.guidance, latents)
            out = network(*arguments, transformer_options={}, **(method if latents else {}))
    return out


def plain_attention(q, k, v):
    weights = (q @ k.transpose(2, 3) / q.shape[3] ** 0.5).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("refresh", ["every n steps", "drift"])
def test_other_refresh_policies_run(world, refresh):
    model, calls = record(with_policy(world.model(), ReusePolicy(refresh=refresh, interval=2, drift=0.0)))
    sampled(world, model, world.positive(2))
    ran = [bool(call.ref_latents) for call in calls]
    # At t = 0 the references' features do not drift, but a drift of 0 always calls for a refresh.
    assert ran == ([True, False, True] if refresh == "every n steps" else [True, True, True])


def test_two_conditionings_with_different_references(world):
    """Each keeps its own keys and values, in one batch or not."""
    model = world.model()
    positive, negative = world.positive(2), world.with_latents(world.references(3)[1:], make_conditioning(9))
    plain = sampled(world, model, positive, negative=negative, cfg=2.5)
    every = with_policy(model, ReusePolicy(refresh="every n steps", interval=1000))
    fast, calls = record(every)
    first = sampled(world, fast, positive, negative=negative, cfg=2.5)
    assert sum(bool(call.ref_latents) for call in calls) == (1 if calls[0].x.shape[0] == 2 else 2)
    assert torch.equal(sampled(world, fast, positive, negative=negative, cfg=2.5), first)
    swapped = sampled(world, fast, positive, negative=world.positive(2, make_conditioning(9)), cfg=2.5)
    assert not torch.allclose(first, swapped) and not torch.allclose(first, plain)


def test_second_pass_and_cancel(world):
    model = world.model()
    patched, positive = controlled(model, world.positive(2), strength=0.5)
    fast = with_policy(patched, ReusePolicy(refresh="never"))
    latent = sampled(world, fast, positive)
    larger = torch.nn.functional.interpolate(latent, scale_factor=2)
    second = sample(fast, positive, latent=larger, denoise=0.5)
    assert second.shape == larger.shape and torch.isfinite(second).all()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sampled(world, cancelling(fast), positive)
    assert torch.equal(sampled(world, fast, positive), latent)
    assert torch.equal(sampled(world, model, world.positive(2)), sampled(world, patched, world.positive(2)))


def test_controlnet_on_kontext():
    world = World("FLUX.1", "offset", True)
    model, net = world.model(), small_models.small_controlnet(hidden_size=64, num_heads=2)
    from nodes import ControlNetApplyAdvanced

    hint = torch.rand(1, 96, 128, 3, generator=torch.Generator().manual_seed(3))
    patched, positive = controlled(model, world.positive(2), strength=0.5)
    with_net, negative = ControlNetApplyAdvanced().apply_controlnet(
        positive, make_conditioning(9), net, hint, 0.8, 0.0, 1.0
    )
    steered = sampled(world, patched, with_net, negative=negative)
    assert torch.isfinite(steered).all() and not torch.allclose(steered, sampled(world, patched, positive))


def test_words_are_found_behind_the_padding_of_flux_2():
    """FLUX.2's text is padded on the left to 512: the word's tokens move with it."""
    world = World("FLUX.2")
    places = []

    def watching(executor, *args, **kwargs):
        places.append(args[2].shape[1])
        return executor(*args, **kwargs)

    model = world.model()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "length", watching)
    settings = RoutingSettings(source="words", masks_from="extra first pass", smoothing=0.0)
    # Where a word stands decides the map; with 7 tokens of text, position 3 is 508 in the model.
    short = set_words(world.positive(2), ((3,), (5,)))
    text = torch.nn.functional.pad(short[0][0], (0, 0, 505, 0))
    long = set_words(world.positive(2, [[text, short[0][1] | {"reference_latents": []}]]), ((508,), (510,)))
    routed = with_routing(model, settings)
    assert torch.equal(sampled(world, routed, short), sampled(world, routed, long))
    assert set(places) == {512}
    elsewhere = set_words(world.positive(2), ((1,), (5,)))
    assert not torch.equal(sampled(world, routed, short), sampled(world, routed, elsewhere))


def test_a_reference_added_behind_the_control_node_is_a_plain_one():
    world = World("FLUX.2")
    model = world.model()
    patched, positive = controlled(model, world.positive(1), strength=0.5)
    more = world.with_latents(world.references(2)[1:], positive)
    _, expected = controlled(model, world.positive(2), strength=0.5)
    assert torch.equal(sampled(world, patched, more), sampled(world, patched, expected))


@pytest.mark.parametrize(
    "count, number, words",
    [(0, 1, "carries no reference and this node is for reference 1"), (2, 3, "carries 2 reference.s. and this node")],
)
def test_a_reference_that_is_not_there_is_an_error(count, number, words):
    world = World("FLUX.2")
    with pytest.raises(ValueError, match=words):
        control_reference(world.positive(count), number, strength=0.5)


def test_values_out_of_range_are_errors():
    world = World("FLUX.2")
    wrong = [{"strength": float("nan")}, {"detail": float("inf")}, {"curve": "steep"}]
    for values in (*wrong, {"start_percent": 0.5, "end_percent": 0.2}):
        with pytest.raises(ValueError):
            controlled(world.model(), world.positive(1), **values)


def test_detail_and_curves_act_and_leave_no_trace_at_rest(world):
    model = world.model()
    plain = sampled(world, model, world.positive(2))
    for values in ({"detail": 1.4}, {"detail": 0.0}, {"curve": "layout only"}, {"curve": "style only"}):
        patched, positive = controlled(model, world.positive(2), **values)
        changed = sampled(world, patched, positive)
        assert torch.isfinite(changed).all() and (changed - plain).abs().max() > 1e-4, values
    assert torch.equal(sampled(world, *controlled(model, world.positive(2))), plain)


@pytest.mark.parametrize("refresh", ["always", "never"])
def test_tokens_that_are_not_looked_at_leave_after_the_first_step(world, refresh):
    model, lengths = world.model(), []

    def watching(q, k, v, heads, *args, **kwargs):
        lengths.append(k.shape[2])
        return comfy.ldm.modules.attention.attention_pytorch(q, k, v, heads, *args, **kwargs)

    settings = ReusePolicy(refresh=refresh, keep_share=0.4)
    kept = [round(0.4 * rows * columns) for rows, columns in SIZES[:2]]
    whole = sum(rows * columns for rows, columns in SIZES[:2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comfy.ldm.flux.math, "optimized_attention", watching)
        latent = sampled(world, with_policy(model, settings), world.positive(2))
    plain = lengths[0] - whole
    # In two blocks each: all, those that are left, and with reuse none, for kept keys stand in.
    last = sum(kept) if refresh == "always" else 0
    assert lengths == [plain + whole] * 2 + [plain + sum(kept)] * 2 + [plain + last] * 2
    full = sampled(world, model, world.positive(2))
    assert torch.isfinite(latent).all() and not torch.equal(latent, full)
    assert torch.equal(sampled(world, with_policy(model, ReusePolicy(keep_share=1.0)), world.positive(2)), full)


def test_the_report_knows_the_family():
    from dreamo_routed.nodes.speed import DreamOSpeed

    world = World("FLUX.2")
    values = {"preset": "constant", "low_memory": False, "width": 1024, "height": 1024, "steps": 4, "keep_gb": 0.0}
    report = DreamOSpeed.execute(world.model(), **values, conditioning=world.positive(2)).result[1]
    tokens = sum(rows * columns for rows, columns in SIZES[:2])
    assert report.startswith(f"{tokens} reference tokens beside {512 + 64 * 64} of picture and text")
    assert "Once for these pictures" in report and "0 of them with the references" in report
    with pytest.raises(ValueError, match="carries no references"):
        DreamOSpeed.execute(world.model(), **values, conditioning=make_conditioning())
    with pytest.raises(ValueError, match="set keep_share to 1"):
        DreamOSpeed.execute(world.model(), **values, keep_share=0.5)

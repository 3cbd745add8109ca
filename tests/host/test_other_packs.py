"""Beside other packs: what they do to the model or the conditioning is either right or one clear error."""

import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras import nodes_easycache, nodes_flux
from dreamo_routed.dreamo_core.host.flux import with_references
from dreamo_routed.dreamo_core.host.reuse import with_policy
from dreamo_routed.dreamo_core.host.routing import add_region, with_routing
from dreamo_routed.dreamo_core.reuse.policy import ReusePolicy
from dreamo_routed.dreamo_core.routing.regions import make_region
from dreamo_routed.dreamo_core.routing.settings import RoutingSettings
from dreamo_routed.dreamo_core.run import keys
from dreamo_routed.dreamo_core.text.placeholders import check_spelling
from sampler_graphs import node
from stand_ins import with_cropped_latents, with_replaced_forward, with_tiles, without_comments
from support import (
    apply_dreamo,
    empty_latent,
    make_chain,
    make_conditioning,
    make_reference,
    record,
    sample,
    small_flux,
)

NEVER = ReusePolicy(refresh="never")


@pytest.fixture(scope="module")
def flux():
    return small_flux()


def left_half(height=128, width=192):
    mask = torch.zeros(1, height, width)
    mask[..., : width // 2] = 1
    return mask


# --- a forward that skips post_input ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "extra",
    [
        lambda model, positive: (model, positive),
        lambda model, positive: (with_policy(model, NEVER), positive),
        lambda model, positive: (with_routing(model, RoutingSettings()), positive),
        lambda model, positive: (model, add_region(positive, make_region(1, left_half(), 0, False, False))),
    ],
    ids=["apply", "speed", "routing", "region"],
)
@pytest.mark.parametrize("apply_first", [True, False])
def test_a_replaced_forward_is_one_clear_error(flux, extra, apply_first):
    before = sample(with_replaced_forward(flux), make_conditioning())
    if apply_first:
        patched, positive = extra(*apply_dreamo(flux, make_conditioning(), make_chain(2)))
        patched = with_replaced_forward(patched)
    else:
        patched, positive = extra(*apply_dreamo(with_replaced_forward(flux), make_conditioning(), make_chain(2)))
    message = "ComfyUI-FirstCache has replaced the forward pass .*EasyCache"
    with pytest.raises(ValueError, match=message) as caught:
        sample(patched, positive)
    assert "/somewhere" not in str(caught.value)
    # Without references their forward is none of our business.
    assert torch.equal(sample(patched, make_conditioning()), before)


def test_a_replaced_forward_is_enough_for_plain_references(flux):
    """References of UNO and USO need nothing from us: the host puts them into the sequence."""
    patched = with_references(with_replaced_forward(flux))
    positive = apply_dreamo_plain(flux, 2)
    assert torch.isfinite(sample(patched, positive)).all()


def apply_dreamo_plain(flux, count):
    from dreamo_routed.dreamo_core.host.conditioning import attach_references

    return attach_references(make_conditioning(), make_chain(count), None)


@pytest.mark.parametrize("cache", [nodes_easycache.EasyCacheNode, nodes_easycache.LazyCacheNode])
@pytest.mark.parametrize("start", [0.0, 0.6])
@pytest.mark.parametrize("policy", [ReusePolicy(), NEVER])
def test_no_false_alarm_with_the_hosts_caches(flux, cache, start, policy):
    """They answer some calls without the model, also the first call of a reference that comes late."""
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(2, start_percent=start))
    cached = cache.execute(with_policy(patched, policy), 3.0, 0.1, 0.95, False).result[0]
    assert torch.isfinite(sample(cached, positive, steps=8)).all()


# --- keys of our own ----------------------------------------------------------------------------------------------


def test_keys_are_our_own_and_no_two_alike():
    values = [value for name, value in vars(keys).items() if name.endswith("_KEY")]
    assert len(values) == len(set(values)) >= 8
    # "dreamo" is the official pack's; one word alone may be anybody's.
    prefixes = ("dreamo_", "realcustom_")
    assert all(value.startswith(prefixes) and value not in prefixes for value in values)


@pytest.mark.parametrize(
    "ours",
    [
        lambda model: with_references(model),
        lambda model: with_policy(model, NEVER),
        lambda model: with_policy(model, ReusePolicy()),
        lambda model: with_routing(model, RoutingSettings()),
    ],
)
def test_wrappers_of_the_official_pack_stay(flux, ours):
    calls = []

    def theirs(executor, *args, **kwargs):
        calls.append(1)
        return executor(*args, **kwargs)

    model = flux.clone()
    kinds = (WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL, WrappersMP.OUTER_SAMPLE, WrappersMP.PREPARE_SAMPLING)
    for kind in kinds:
        model.add_wrapper_with_key(kind, "dreamo", theirs)
    patched = ours(model)
    assert all(patched.wrappers[kind]["dreamo"] == [theirs] for kind in kinds)
    sample(patched, make_conditioning(), steps=2)
    assert len(calls) == 2 + 2 + 1 + 1


# --- reference latents that others have changed ---------------------------------------------------------------------


@pytest.mark.parametrize("size", [(36, 36), (8, 8)])
def test_cropped_latents_do_not_reach_the_model(flux, size, caplog):
    """An upscaler cuts and stretches what rides on the conditioning; the references are used as they were."""
    chain = (make_reference(8, 8, 0), make_reference(8, 8, 1))
    patched, positive = apply_dreamo(flux, make_conditioning(), chain)
    right = sample(patched, positive)
    with caplog.at_level("WARNING"):
        assert torch.equal(sample(patched, with_cropped_latents(positive, size)), right)
    warned = [r.message for r in caplog.records if "reference latents" in r.message]
    # The same size cannot be told apart without looking at every value, and need not be.
    assert len(warned) == (size != (8, 8))
    assert all("8 × 8" in message and "36 × 36" in message for message in warned)


def test_conditionings_with_other_latents_do_not_share_a_batch(flux):
    """Two conditionings whose references have the same sizes: each keeps its own pictures."""
    patched, first = apply_dreamo(flux, make_conditioning(0), (make_reference(8, 8, 0),))
    _, second = apply_dreamo(flux, make_conditioning(1), (make_reference(8, 8, 1),))
    recorded, calls = record(patched)
    sample(recorded, node("ConditioningCombine")(conditioning_1=first, conditioning_2=second)[0], steps=1)
    assert [call.x.shape[0] for call in calls] == [1, 1]
    assert not torch.equal(calls[0].ref_latents[0], calls[1].ref_latents[0])


# --- tiles --------------------------------------------------------------------------------------------------------

TWO = [(0, 12), (12, 24)]
THREE = [(0, 12), (6, 18), (12, 24)]


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("embeddings", [True, False])
def test_tiles_in_a_batch_are_the_tiles_one_by_one(flux, batch, embeddings):
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(2, strength=0.8))
    if not embeddings:
        positive = apply_dreamo_plain(flux, 2)
    latent = empty_latent(batch=batch)
    one_by_one = sample(with_tiles(patched, TWO), positive, latent=latent)
    assert (sample(with_tiles(patched, TWO, 2), positive, latent=latent) - one_by_one).abs().max() < 1e-4


def test_stock_references_with_speed_in_batched_tiles(flux):
    positive = make_conditioning(reference_latents=[r.latent for r in make_chain(2)], reference_latents_method="uxo")
    fast = with_policy(flux, ReusePolicy(refresh="sigma distance"))
    one_by_one = sample(with_tiles(fast, TWO), positive)
    assert (sample(with_tiles(fast, TWO, 2), positive) - one_by_one).abs().max() < 1e-4


@pytest.mark.parametrize(
    "ours",
    [
        lambda model: with_policy(model, NEVER),
        lambda model: with_routing(model, RoutingSettings(strength=1.0)),
        lambda model: with_routing(with_policy(model, ReusePolicy(refresh="every n steps", interval=2)),
                                   RoutingSettings(masks_from="extra first pass")),
    ],
    ids=["speed", "routing", "both"],
)  # fmt: skip
def test_equal_tiles_of_one_run_share_nothing(flux, ours):
    """Two tiles of one size: what is kept for one is never used for the other, so each is what it is in a run alone."""
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(2))
    model, how = ours(patched), {"steps": 4, "denoise": 0.6, "disable_noise": True}
    latent = torch.randn(1, 16, 16, 24, generator=torch.Generator().manual_seed(4))
    alone = [sample(model, positive, latent=latent[..., a:b].contiguous(), **how) for a, b in TWO]
    both = sample(with_tiles(model, TWO), positive, latent=latent, **how)
    assert (both - torch.cat(alone, -1)).abs().max() < 1e-4


def test_tiles_beyond_those_kept_apart_run_exactly(flux):
    """Nothing is shared where there are more tiles than the store is made for: the rest runs without it."""
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(1))
    tiles = [(n, n + 4) for n in range(0, 24, 4)]
    recorded, calls = record(with_policy(patched, NEVER))
    sample(with_tiles(recorded, tiles), positive, steps=2)
    assert [len(call.ref_latents or []) for call in calls] == [1] * 6 + [0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize("sampler", ["heun", "dpmpp_sde", "euler"])
def test_samplers_that_repeat_a_noise_level_are_no_tiles(flux, sampler):
    """Heun calls the model twice at one noise level, for one place: with "never" there is one refresh."""
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(1))
    recorded, calls = record(with_policy(patched, NEVER))
    sample(recorded, positive, steps=4, sampler=sampler)
    assert [len(call.ref_latents or []) for call in calls] == [1] + [0] * (len(calls) - 1)


def test_a_region_on_tiles_of_unknown_place_is_said_once(flux, caplog):
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(1))
    positive = add_region(positive, make_region(1, left_half(), 0, False, False))
    with caplog.at_level("WARNING"):
        sample(with_tiles(patched, TWO), positive, steps=3)
    assert sum("tile" in record.message for record in caplog.records) == 1
    caplog.clear()
    with caplog.at_level("WARNING"):
        sample(patched, positive, steps=3)
    assert not [r for r in caplog.records if "tile" in r.message]


# --- a comment in the prompt ----------------------------------------------------------------------------------------


def test_a_placeholder_that_became_a_comment_is_a_misspelling():
    prompt = "a cat from [ref#1] in the park\non a bench"
    check_spelling(prompt)
    with pytest.raises(ValueError, match=r"\[ref is no DreamO placeholder.*closing bracket"):
        check_spelling(without_comments(prompt))
    escaped = prompt.replace("#", "\\#")
    check_spelling(without_comments(escaped))
    assert without_comments(escaped) == prompt
    # The escaped form where nobody takes the backslash away.
    with pytest.raises(ValueError, match=r"write \[ref#1\]"):
        check_spelling(escaped)


@pytest.mark.parametrize("prompt", ["refuse [references] of [refined] style", "[ref] is text\\", "see [reference"])
def test_other_brackets_stay_text(prompt):
    if prompt.startswith("[ref]"):
        pytest.raises(ValueError, check_spelling, prompt)
    else:
        check_spelling(prompt)


# --- strength 0, and another cache of references ----------------------------------------------------------------


@pytest.mark.parametrize("cfg", [1.0, 2.5])
def test_all_strengths_zero_is_as_if_absent_bit_for_bit(flux, cfg):
    plain = sample(flux, make_conditioning(), cfg=cfg)
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(2, strength=0.0))
    assert "reference_latents" not in positive[0][1] and not positive[0][1].get("model_conds")
    assert torch.equal(sample(patched, positive, cfg=cfg), plain)


@pytest.mark.skipif(not hasattr(nodes_flux, "FluxKVCache"), reason="this host has no FluxKVCache")
def test_the_hosts_kv_cache_is_refused_and_ours_is_named(flux):
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(1))
    with pytest.raises(ValueError, match="DreamO Speed"):
        sample(nodes_flux.FluxKVCache.execute(patched).result[0], positive)

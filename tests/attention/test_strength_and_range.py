"""Strength and start/end percent of each reference, through the sampler."""

from dataclasses import replace

import pytest
import torch
from comfy.ldm.flux.math import apply_rope
from dreamo_routed.dreamo_core.attention.bias import widened_mask
from dreamo_routed.dreamo_core.host.reuse import with_policy
from dreamo_routed.dreamo_core.host.routing import with_routing
from dreamo_routed.dreamo_core.reuse.policy import ReusePolicy
from dreamo_routed.dreamo_core.routing.settings import RoutingSettings
from dreamo_routed.dreamo_core.sequence.percent import in_range
from dreamo_routed.dreamo_core.sequence.reference import ReferenceConditioning, ReferenceSetting
from oracles.slow import slow_flux
from support import (
    apply_dreamo,
    make_chain,
    make_conditioning,
    make_embeddings,
    make_model,
    make_reference,
    record,
    sample,
    small_flux,
)


@pytest.fixture(scope="module")
def flux():
    return small_flux()


def run(flux, references, **options):
    patched, positive = apply_dreamo(flux, make_conditioning(), references)
    return sample(patched, positive, **options)


def test_strength_zero_is_no_reference_bit_for_bit(flux):
    plain = sample(flux, make_conditioning())
    assert torch.equal(run(flux, make_chain(3, strength=0.0)), plain)
    assert not torch.equal(run(flux, make_chain(3)), plain)


def test_strength_one_leaves_attention_alone(flux):
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(2))
    patched, calls = record(patched)
    sample(patched, positive)
    assert all("optimized_attention_override" not in call.options for call in calls)


def test_strength_is_smooth_between_its_ends(flux):
    """From the sequence without the reference at 0 to the trained one at 1, without a jump."""
    strengths = [0.0, 1e-4, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0]
    results = [run(flux, (make_reference(strength=s),), steps=1) for s in strengths]
    whole = (results[-1] - results[0]).norm()
    distance = [((r - results[0]).norm() / whole).item() for r in results]
    print("\nstrength -> distance from no reference:", dict(zip(strengths, distance, strict=True)))
    assert distance[1] < 1e-2 and abs(distance[-2] - 1) < 0.02
    assert all(a < b for a, b in zip(distance, distance[1:], strict=False))


def masked_slow_flux(flux, call, latents, tables, strengths, monkeypatch, mask=None):
    """The slow twin with log(strength) added to the logits, in plain softmax attention.

    Args:
        mask: (t + n, t + n), what is added between text and image tokens beside that.
    """

    def attention(q, k, v, pe, **kwargs):
        q, k = apply_rope(q, k, pe)
        sizes = [latent.shape[2] // 2 * (latent.shape[3] // 2) for latent in latents]
        bias = torch.zeros(q.shape[2], q.shape[2])
        start = q.shape[2] - sum(sizes)
        for strength, size in zip(strengths, sizes, strict=True):
            bias[:, start : start + size] = torch.log(torch.tensor(strength))
            bias[start : start + size, start : start + size] = 0
            start += size
        if mask is not None:
            bias[: mask.shape[0], : mask.shape[1]] += mask
        weights = (q @ k.transpose(2, 3) / q.shape[3] ** 0.5 + bias).softmax(-1)
        return (weights @ v).transpose(1, 2).flatten(2)

    monkeypatch.setattr("comfy.ldm.flux.layers.attention", attention)
    return slow_flux(flux, call.x, call.timestep, call.context, call.y, call.guidance, latents, *tables)


@pytest.mark.parametrize("strengths", [[0.3, 1.0, 1.7], [0.2, 0.6, 0.4]])
def test_strength_equals_a_dense_log_bias(flux, monkeypatch, strengths):
    references = tuple(
        make_reference(*size, seed=n, strength=s)
        for n, (size, s) in enumerate(zip([(8, 8), (4, 6), (6, 4)], strengths, strict=True))
    )
    patched, positive = apply_dreamo(flux, make_conditioning(), references)
    patched, calls = record(patched)
    sample(patched, positive, steps=1)
    task, index = make_model().embeddings.task.clone(), make_model().embeddings.index
    task[1] *= min(1, max(strengths))
    tables = (task, index)
    latents = [(r.latent - 0.1159) * 0.3611 for r in references]
    theirs = masked_slow_flux(flux.model.diffusion_model, calls[0], latents, tables, strengths, monkeypatch)
    assert (theirs - calls[0].output).abs().max() < 1e-5


def conditioning_with_mask():
    """As the host's style models leave it: a bias between text and image."""
    mask = torch.zeros(1, 7 + 96, 7 + 96)
    mask[:, 7:, :4] = -3.0
    mask[:, 40, 60] = -1.0
    return make_conditioning(attention_mask=mask, attention_mask_img_shape=(8, 12))


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_an_attention_mask_acts_on_text_and_image_beside_references(flux, strength, monkeypatch):
    references = make_chain(2, strength=strength)
    patched, positive = apply_dreamo(flux, conditioning_with_mask(), references)
    patched, calls = record(patched)
    sample(patched, positive, steps=1)
    task, index = make_model().embeddings.task.clone(), make_model().embeddings.index
    task[1] *= strength
    latents = [(r.latent - 0.1159) * 0.3611 for r in references]
    mask = positive[0][1]["attention_mask"][0]
    arguments = flux.model.diffusion_model, calls[0], latents, (task, index), [strength] * 2, monkeypatch
    assert (masked_slow_flux(*arguments, mask) - calls[0].output).abs().max() < 1e-5
    assert (masked_slow_flux(*arguments) - calls[0].output).abs().max() > 1e-3


@pytest.mark.parametrize(
    "extra",
    [
        lambda model: with_policy(model, ReusePolicy(refresh="never")),
        lambda model: with_routing(model, RoutingSettings(form="dense")),
        lambda model: with_routing(model, RoutingSettings(masks_from="extra first pass", form="low-rank")),
    ],
    ids=["speed", "dense", "low-rank"],
)
@pytest.mark.parametrize("batch", [1, 2])
def test_an_attention_mask_with_everything_else(flux, extra, batch):
    patched, positive = apply_dreamo(flux, conditioning_with_mask(), make_chain(2))
    plain = apply_dreamo(flux, make_conditioning(), make_chain(2))[1]
    latent = torch.zeros(batch, 16, 16, 24)
    results = [sample(extra(patched), c, latent=latent, cfg=2.0) for c in (positive, plain)]
    assert all(torch.isfinite(result).all() for result in results) and not torch.equal(*results)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
@pytest.mark.parametrize("lead", [(), (1,), (2, 3)])
def test_a_widened_mask_allows_what_is_new(dtype, lead):
    mask = torch.rand(*lead, 4, 4) > 0.5
    mask = mask if dtype == torch.bool else mask.float() - 1
    wide = widened_mask(mask, 6, 9)
    assert wide.shape == (*lead, 6, 9) and torch.equal(wide[..., :4, :4], mask)
    allowed = torch.ones if dtype == torch.bool else torch.zeros
    assert torch.equal(wide[..., 4:, :], allowed(*lead, 2, 9, dtype=dtype))
    assert torch.equal(wide[..., :4, 4:], allowed(*lead, 4, 5, dtype=dtype))
    assert widened_mask(mask, 4, 4) is mask
    assert widened_mask(mask[..., :1, :], 6, 9).shape == (*lead, 1, 9)
    # Each side by itself, by one, and where a mask is larger than what it is for.
    assert widened_mask(mask[..., :2], 5, 2).shape == (*lead, 5, 2)
    assert widened_mask(mask[..., :2, :], 2, 5).shape == (*lead, 2, 5)
    assert widened_mask(mask, 3, 2) is mask and widened_mask(mask, 3, 5).shape == (*lead, 4, 5)
    assert widened_mask(mask, 5, 3).shape == (*lead, 5, 4)


def test_an_existing_attention_override_is_called(flux):
    seen = []

    def counting(attention, q, *args, **kwargs):
        seen.append(q.shape[-1])
        return attention(q, *args, **kwargs)

    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(1, strength=0.5))
    alone = sample(patched, positive, steps=1)
    patched = patched.clone()
    patched.model_options["transformer_options"]["optimized_attention_override"] = counting
    assert torch.equal(sample(patched, positive, steps=1), alone)
    assert len(seen) == 6


def test_outside_its_range_a_reference_is_not_in_the_sequence(flux):
    first, second = make_reference(8, 8, 0, end_percent=0.4), make_reference(4, 6, 1, start_percent=0.3)
    patched, positive = apply_dreamo(flux, make_conditioning(), (first, second))
    patched, calls = record(patched)
    sample(patched, positive, steps=8)
    sampling = flux.get_model_object("model_sampling")
    counts = set()
    for call in calls:
        sigma = call.timestep.item()
        expected = [(8, 8)] * (sigma >= sampling.percent_to_sigma(0.4)) + [(4, 6)] * (
            sigma <= sampling.percent_to_sigma(0.3)
        )
        assert [tuple(r.shape[2:]) for r in call.ref_latents or []] == expected
        counts.add(len(expected))
    assert counts == {1, 2}


def test_a_reference_alone_in_its_range_keeps_its_place_and_index(flux):
    """Reference 2 acts as reference 2, on its place on the diagonal, while reference 1 is out of range."""
    references = (make_reference(8, 8, 0, strength=0.0), make_reference(4, 6, 1))
    patched, positive = apply_dreamo(flux, make_conditioning(), references)
    patched, calls = record(patched)
    sample(patched, positive, steps=1)
    model = make_model()
    index = model.embeddings.index.clone()
    index[1] = index[2]
    # The slow twin has no gaps: shift reference 2 by hand through an image-sized hole in its row and column ids.
    from oracles import slow

    original = slow.slow_sequence

    def with_gap(x, latents):
        sequence, ids, owners = original(x, latents)
        ids = ids.clone()
        ids[torch.tensor(owners) == 1, 1:] += 4
        return sequence, ids, owners

    slow.slow_sequence = with_gap
    try:
        call = calls[0]
        latents = [(references[1].latent - 0.1159) * 0.3611]
        theirs = slow_flux(
            flux.model.diffusion_model, call.x, call.timestep, call.context, call.y, call.guidance,
            latents, model.embeddings.task, index,
        )  # fmt: skip
    finally:
        slow.slow_sequence = original
    assert torch.equal(theirs, call.output)


def test_range_that_is_upside_down_is_refused():
    from dreamo_routed.dreamo_core.sequence.percent import check_range

    with pytest.raises(ValueError, match="start_percent must not be above end_percent"):
        check_range(0.7, 0.2)


def test_a_range_has_its_bounds_in_it():
    """As the host counts them; open at an end that is the whole run's."""
    to_sigma = lambda percent: 1 - percent  # noqa: E731
    assert in_range(0.75, 0.25, 0.5, to_sigma) and in_range(0.5, 0.25, 0.5, to_sigma)
    assert not in_range(0.7500001, 0.25, 0.5, to_sigma) and not in_range(0.4999999, 0.25, 0.5, to_sigma)
    assert in_range(1e9, 0.0, 0.5, to_sigma) and in_range(-1.0, 0.5, 1.0, to_sigma)
    assert not in_range(1e9, 0.001, 0.5, to_sigma) and not in_range(-1.0, 0.5, 0.999, to_sigma)


def test_conditionings_are_equal_by_value():
    """Equal ones may share a batch in the host, so everything that acts has to be compared."""
    one, latent = ReferenceSetting(1), torch.rand(1, 16, 4, 4)
    made = lambda settings=(one,), embeddings=None, latents=(latent,): ReferenceConditioning(  # noqa: E731
        settings, embeddings, None, latents
    )
    tables = make_embeddings()
    assert made() == made(latents=(latent.clone(),)) and made() != "something else"
    assert made(embeddings=tables) == made(embeddings=make_embeddings())
    assert made(embeddings=tables) != made() and made() != made(embeddings=tables)
    assert made(embeddings=tables) != made(embeddings=make_embeddings(seed=8))
    for table in ("task", "index"):
        changed = replace(tables, **{table: getattr(tables, table) + 1})
        assert made(embeddings=tables) != made(embeddings=changed)
    assert made() != made(settings=(replace(one, strength=0.5),)) and made() != made(settings=(one, one))
    assert made() != made(latents=(latent + 1,)) and made() != made(latents=())
    assert made(latents=(latent, latent)) != made(latents=(latent, latent + 1))

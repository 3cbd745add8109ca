"""Tokens that leave the sequence: the right ones, and everything else where it was."""

import math

import pytest
import torch
from comfy.ldm.flux.math import apply_rope
from dreamo_routed.dreamo_core.host.reuse import with_policy
from dreamo_routed.dreamo_core.reuse.policy import ReusePolicy
from dreamo_routed.dreamo_core.sampling.apply_model import kept_of
from dreamo_routed.dreamo_core.sequence.placed import PlacedReference
from dreamo_routed.dreamo_core.sequence.pruning import Foreground, evenly, foreground_of, kept_tokens, random_keep
from dreamo_routed.dreamo_core.sequence.reference import conditioning_for
from dreamo_routed.dreamo_core.sequence.tokens import ReferenceSequence
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import slow
from oracles.pruning import masked_reference, slow_kept, token_mask
from support import (
    apply_dreamo,
    empty_latent,
    make_chain,
    make_conditioning,
    make_model,
    record,
    sample,
    small_flux,
)

PRUNE = ReusePolicy(prune=True, margin=0)


@pytest.fixture(scope="module")
def flux():
    return small_flux()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(0, 3),
    st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]),
    st.floats(0, 1),
    st.integers(0, 99),
)
def test_kept_tokens_equal_the_slow_twin(rows, columns, margin, keep_ratio, share, seed):
    mask = token_mask(rows, columns, share, seed)
    foreground = Foreground((rows, columns), bytes(mask.flatten().mul(255).to(torch.uint8).tolist()))
    assert set(kept_tokens(foreground, margin, keep_ratio)) == slow_kept(mask, margin, keep_ratio)


@pytest.mark.parametrize("ratio", [0.0, 0.01, 0.3, 0.5, 1.0])
def test_evenly_spreads(ratio):
    marked = evenly(100, ratio).nonzero().flatten()
    assert len(marked) == round(100 * ratio)
    assert len(marked) < 2 or marked.diff().max() - marked.diff().min() <= 1


def test_foreground_is_the_mask_by_area():
    keep = torch.zeros(1, 48, 32)
    keep[:, :16, 8:16] = 1  # half of one token's patch
    keep[:, 40, 31] = 0.1  # next to nothing of another's
    foreground = foreground_of(keep, (3, 2))
    assert foreground.grid == (3, 2) and list(foreground.coverage) == [128, 0, 0, 0, 0, 1]
    assert foreground.tensor().tolist() == [[True, False], [False, False], [False, False]]
    assert foreground == foreground_of(keep.clone(), (3, 2)) and hash(foreground) == hash(foreground_of(keep, (3, 2)))
    # A mask of another size is fitted by area.
    assert foreground_of(keep[:, ::2, ::2], (3, 2)).tensor()[0, 0]


def test_references_with_other_masks_are_not_one_batch():
    one, other = (conditioning_for((masked_reference(token_mask(4, 4, 0.5, s)),), None) for s in (1, 2))
    same = conditioning_for((masked_reference(token_mask(4, 4, 0.5, 1)),), None)
    assert one != other and one == same


def test_random_drop():
    generator = torch.Generator().manual_seed(1)
    keep = random_keep(1024, 0.95, generator)
    assert keep.sum() == 1024 - round(1024 * 0.95)
    again = random_keep(1024, 0.95, torch.Generator().manual_seed(1))
    assert torch.equal(keep, again) and not torch.equal(keep, random_keep(1024, 0.95, generator))
    assert random_keep(10, 1.0).sum() == 1 and random_keep(10, 0.0).all()
    # Every token stays about equally often.
    counts = sum(random_keep(20, 0.5, generator).int() for _ in range(2000))
    assert (counts - 1000).abs().max() < 120
    for tokens, drop in ((10, 1.5), (10, -0.1), (0, 0.5)):
        with pytest.raises(ValueError, match="drop must lie in 0 to 1 and tokens be at least 1"):
            random_keep(tokens, drop)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_pruned_equals_the_slow_twin_with_those_tokens_removed(flux, monkeypatch, batch, strength):
    masks = [token_mask(4, 5, seed=1), torch.ones(3, 4).bool(), token_mask(4, 4, seed=2)]
    references = tuple(masked_reference(mask, n, strength=strength) for n, mask in enumerate(masks))
    patched, positive = apply_dreamo(flux, make_conditioning(), references)
    patched, calls = record(with_policy(patched, PRUNE))
    sample(patched, positive, steps=2, latent=empty_latent(batch=batch))
    original = slow.slow_sequence

    def pruned(x, latents):
        sequence, ids, owners = original(x, latents)
        stay = torch.cat((torch.ones(owners.count(0)).bool(), *(m.flatten() for m in masks)))
        return sequence[:, stay], ids[stay], [o for o, s in zip(owners, stay, strict=True) if s]

    def weighed(q, k, v, pe, **_):
        q, k = apply_rope(q, k, pe)
        bias, start = torch.zeros(q.shape[2], q.shape[2]), q.shape[2] - sum(int(m.sum()) for m in masks)
        for size in (int(m.sum()) for m in masks):
            bias[:, start : start + size] = math.log(strength)
            bias[start : start + size, start : start + size] = 0
            start += size
        weights = (q @ k.transpose(2, 3) / q.shape[3] ** 0.5 + bias).softmax(-1)
        return (weights @ v).transpose(1, 2).flatten(2)

    monkeypatch.setattr(slow, "slow_sequence", pruned)
    if strength != 1.0:
        monkeypatch.setattr("comfy.ldm.flux.layers.attention", weighed)
    task, index = make_model().embeddings.task.clone(), make_model().embeddings.index
    task[1] *= strength
    for call in calls:
        latents = [((r.latent - 0.1159) * 0.3611).repeat(batch, 1, 1, 1) for r in references]
        theirs = slow.slow_flux(
            flux.model.diffusion_model, call.x, call.timestep, call.context, call.y, call.guidance.expand(batch),
            latents, task, index,
        )  # fmt: skip
        assert (theirs - call.output).abs().max() <= (0 if strength == 1.0 else 1e-5)


def test_pruning_nothing_is_bit_identical(flux):
    full_masks = tuple(masked_reference(torch.ones(4, 4).bool(), n) for n in range(2))
    some = tuple(masked_reference(token_mask(4, 4, seed=n), n) for n in range(2))
    cases = [
        (full_masks, PRUNE),  # nothing is background
        (some, ReusePolicy(prune=True, margin=64)),  # all within the margin
        (some, ReusePolicy(prune=True, margin=0, keep_ratio=1.0)),  # the background stays
        (make_chain(2), PRUNE),  # no mask
        ((masked_reference(torch.zeros(4, 4).bool()),), PRUNE),  # no subject: the mask says nothing
    ]
    for chain, speed in cases:
        patched, positive = apply_dreamo(flux, make_conditioning(), chain)
        assert torch.equal(sample(with_policy(patched, speed), positive), sample(patched, positive))
    patched, positive = apply_dreamo(flux, make_conditioning(), some)
    assert not torch.equal(sample(with_policy(patched, PRUNE), positive), sample(patched, positive))


def test_more_kept_tokens_mean_less_error(flux):
    patched, positive = apply_dreamo(flux, make_conditioning(), (masked_reference(token_mask(8, 8, 0.2)),))
    full = sample(patched, positive)
    errors = [
        (sample(with_policy(patched, ReusePolicy(prune=True, margin=0, keep_ratio=r)), positive) - full).norm()
        for r in (0.0, 0.5, 1.0)
    ]
    assert errors[0] > errors[1] > errors[2] == 0


def test_tokens_of_others_and_the_hosts_count_stay_right():
    """Newer hosts count each reference's tokens for attention patches; other nodes may append tokens of their own."""
    first, second = masked_reference(token_mask(2, 3, seed=1)), masked_reference(torch.ones(2, 2).bool(), 1)
    chain = conditioning_for((first, second), None)
    placed = [
        PlacedReference(s, grid, offset, kept_of(s, grid, PRUNE))
        for s, grid, offset in zip(chain.settings, [(2, 3), (2, 2)], [(5, 5), (7, 8)], strict=True)
    ]
    embeddings = make_model().embeddings
    sequence = ReferenceSequence(4, placed, embeddings)
    img = torch.arange(4 + 6 + 4 + 3.0).reshape(1, -1, 1).repeat(2, 1, 128)
    options = {"reference_image_num_tokens": [6, 4, 3]}
    args = {"img": img, "img_ids": torch.zeros(2, 17, 3), "txt": None, "transformer_options": options}
    out = sequence.post_input(args)
    kept = [n for n in range(6) if token_mask(2, 3, seed=1).flatten()[n]]
    expected = [*range(4), *(4 + n for n in kept), *range(10, 17)]
    assert options["reference_image_num_tokens"] == [len(kept), 4, 3]
    rows = slow.condition_vectors([0] * 4 + [1] * len(kept) + [2] * 4, embeddings.task, embeddings.index)
    rows = torch.cat((rows, torch.zeros(3, 128)))
    assert torch.equal(out["img"], img[:, expected] + rows)
    ids = [(0, 5 + n // 3, 5 + n % 3) for n in kept] + [(0, 7 + n // 2, 8 + n % 2) for n in range(4)]
    assert torch.equal(out["img_ids"][1], torch.tensor([(0, 0, 0)] * 4 + ids + [(0, 0, 0)] * 3).float())
    assert sequence.spans() == [(4, 4 + len(kept)), (4 + len(kept), 8 + len(kept))]

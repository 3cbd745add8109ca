"""Where the answer is known: masks find constructed subjects, and a picture adds nothing outside of its mask."""

import realcustom_masks
import torch
from dreamo_routed.dreamo_core.realcustom.adding import Adder
from dreamo_routed.dreamo_core.realcustom.weights import VisionAttention

PAPER = "paper: coarse cross × fine self"


def mean_overlap(name, seeds=3, gamma=0.128):
    source = realcustom_masks.sources()[name]
    return sum(realcustom_masks.overlap(realcustom_masks.found(source, seed, gamma)) for seed in range(seeds)) / seeds


def test_both_sources_find_two_subjects():
    assert mean_overlap(PAPER) >= 0.8
    assert mean_overlap("released: all cross") >= 0.8


def test_fine_self_attention_sharpens_as_the_papers_table_has_it():
    assert mean_overlap(PAPER) > mean_overlap("coarse cross × all self") > mean_overlap("coarse cross × coarse self")
    assert mean_overlap(PAPER) > mean_overlap("coarse cross")


def test_without_max_normalisation_a_subject_is_weak():
    source = realcustom_masks.sources()[PAPER]
    with_norm, without = (float(realcustom_masks.found(source, 0, 0.128, norm).amax()) for norm in (True, False))
    assert with_norm == 1.0 and without < 0.5


def test_outside_of_the_mask_attention_is_the_texts_bit_for_bit():
    generator = torch.Generator().manual_seed(2)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    weights = VisionAttention({"block": (draw(16, 6), draw(16, 6))})
    mask = torch.zeros(1, 64)
    mask[:, 20:30] = 1
    plain = lambda q, k, v, heads, extra: realcustom_masks.attention(q, k, v, heads)  # noqa: E731
    adder = Adder([draw(1, 9, 6)], [mask], (8, 8), weights, None, plain)
    q, text = draw(1, 64, 16), draw(1, 64, 16)
    found = adder.add("block", q, text, (8, 8), {"n_heads": 2})
    assert torch.equal(found[:, mask[0] == 0], text[:, mask[0] == 0])
    assert (found - text)[:, mask[0] == 1].abs().max() > 0.1

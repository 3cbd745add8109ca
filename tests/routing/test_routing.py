"""Routing through the sampler: what it changes, what it leaves alone, and with everything it has to work beside."""

import logging
import shutil
from dataclasses import replace

import comfy.ldm.modules.attention as host_attention
import nodes
import pytest
import torch
from comfy.ldm.flux.math import apply_rope
from comfy_extras import nodes_custom_sampler, nodes_edit_model, nodes_flux
from comfy_extras.nodes_torch_compile import TorchCompileModel
from dreamo_routed.dreamo_core.attention.bias import NEVER, dense_attention, key_columns, low_rank_attention
from dreamo_routed.dreamo_core.attention.layout import Block, Layout
from dreamo_routed.dreamo_core.host.flux import attention_for_bias
from dreamo_routed.dreamo_core.host.reuse import with_policy
from dreamo_routed.dreamo_core.host.routing import add_region, set_words, text_pieces, with_routing
from dreamo_routed.dreamo_core.host.text_encoder import encode_prompt, with_placeholders
from dreamo_routed.dreamo_core.reuse.policy import ReusePolicy
from dreamo_routed.dreamo_core.routing import router as participant_module
from dreamo_routed.dreamo_core.routing.record import Recorder
from dreamo_routed.dreamo_core.routing.regions import RoutingConditioning, make_region
from dreamo_routed.dreamo_core.routing.router import Router, steps_done
from dreamo_routed.dreamo_core.routing.settings import RoutingSettings
from dreamo_routed.dreamo_core.run.keys import RECORDER_KEY
from dreamo_routed.dreamo_core.run.run import Run
from dreamo_routed.dreamo_core.sequence.reference import ReferenceSetting
from dreamo_routed.dreamo_core.text.placeholders import PlaceholderPositions
from dreamo_routed.dreamo_core.text.words import positions_of, words_for_references
from dreamo_routed.minidreamo.host import small_models
from dreamo_routed.nodes.region import DreamORegion, DreamORoutingWords
from dreamo_routed.nodes.routed_sampler import DreamORoutedSampler, DreamORoutingPreview
from dreamo_routed.nodes.routing import DreamORouting
from stand_ins import with_tiles
from support import (
    apply_dreamo,
    empty_latent,
    make_chain,
    make_conditioning,
    make_model,
    make_reference,
    record,
    sample,
    small_flux,
)

GRID = (8, 12)
"""Tokens of `empty_latent()`."""


@pytest.fixture(scope="module")
def flux():
    return small_flux()


def routed(model, **settings):
    return with_routing(model, RoutingSettings(**settings))


def watched(model, recorder):
    """The model with a recorder, as the routed sampler puts it there."""
    model = model.clone()
    model.model_options["transformer_options"][RECORDER_KEY] = recorder
    return model


def left_half(height=128, width=192):
    mask = torch.zeros(1, height, width)
    mask[..., : width // 2] = 1
    return mask


def region(reference, mask, **options):
    return make_region(reference, mask, 0, options.get("hard", False), options.get("auto", False))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_strength_zero_is_unrouted_bit_for_bit(dtype):
    flux = small_flux(dtype=dtype)
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(3))
    plain = sample(patched, positive, steps=4)
    assert torch.equal(sample(routed(patched, strength=0.0), positive, steps=4), plain)
    # Also while somebody watches, and with regions.
    recorder = Recorder()
    regions = add_region(positive, region(1, left_half()))
    assert torch.equal(sample(watched(routed(patched, strength=0.0), recorder), regions, steps=4), plain)
    assert recorder.maps((128, 192)).prompts
    assert not torch.equal(sample(routed(patched), positive, steps=4), plain)


def test_the_first_step_is_unrouted_and_a_pass_in_front_changes_that(flux):
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(2))
    outputs = []
    for settings in (None, {}, {"masks_from": "extra first pass"}):
        model, calls = record(patched if settings is None else routed(patched, **settings))
        sample(model, positive, steps=3)
        outputs.append(calls)
    plain, later, first = outputs
    assert torch.equal(plain[0].output, later[0].output) and not torch.equal(plain[1].output, later[1].output)
    assert len(plain) == len(later) == 3 and len(first) == 4
    assert torch.equal(first[0].output, plain[0].output) and not torch.equal(first[1].output, plain[0].output)


def slow_influence(flux, patched, positive, w, monkeypatch, call_of):
    """One step with log w added to the logits, in plain softmax attention; w: (b, r, n)."""

    def attention(q, k, v, pe, **kwargs):
        q, k = apply_rope(q, k, pe)
        count = w.shape[2]
        start = 7 + count
        bias = torch.zeros(w.shape[0], 1, q.shape[2], q.shape[2])
        for i, size in enumerate((16, 15)):
            bias[:, 0, 7 : 7 + count, start : start + size] = w[:, i].log().clamp(min=NEVER).unsqueeze(-1)
            start += size
        weights = (q @ k.transpose(2, 3) / q.shape[3] ** 0.5 + bias).softmax(-1)
        return (weights @ v).transpose(1, 2).flatten(2)

    monkeypatch.setattr("comfy.ldm.flux.layers.attention", attention)
    model, calls = record(patched)
    sample(model, positive, steps=1, latent=empty_latent(batch=w.shape[0]))
    monkeypatch.undo()
    return calls[0].output


@pytest.mark.parametrize("form", ["low-rank", "dense"])
@pytest.mark.parametrize("batch", [1, 2])
def test_painted_regions_equal_a_dense_log_bias(flux, monkeypatch, form, batch):
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(2))
    masks = torch.rand(batch, 8, 12, generator=torch.Generator().manual_seed(4))
    masks[masks < 0.3] = 0
    other = left_half()
    regions = add_region(add_region(positive, region(1, masks)), region(2, other))
    model, calls = record(routed(patched, form=form, stop=0.0))
    sample(model, regions, steps=1, latent=empty_latent(batch=batch))
    half = (torch.arange(96) % 12 < 6).float().expand(batch, -1)
    theirs = slow_influence(flux, patched, positive, torch.stack([masks.flatten(1), half], 1), monkeypatch, calls)
    assert (theirs - calls[0].output).abs().max() < 1e-4


def test_an_empty_mask_is_that_reference_left_out_for_these_queries(flux):
    """One block, so that nothing comes around a corner: image tokens outside of the region see no reference."""
    flux = small_flux(depth=0, depth_single_blocks=1)
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(2))
    empty = add_region(positive, region(2, torch.zeros(1, 4, 4)))
    model, calls = record(patched)
    sample(model, empty, steps=1)
    sample(model, apply_dreamo(flux, make_conditioning(), make_chain(1))[1], steps=1)
    with_empty, without = calls
    assert (with_empty.output - without.output).abs().max() < 1e-5
    # In part: tokens of the left half as with both, those of the right half as with the first alone.
    sample(model, add_region(positive, region(2, left_half())), steps=1)
    sample(model, positive, steps=1)
    _, _, part, both = calls
    assert (part.output[..., :12] - both.output[..., :12]).abs().max() < 1e-5
    assert (part.output[..., 12:] - without.output[..., 12:]).abs().max() < 1e-5
    assert (both.output[..., 12:] - without.output[..., 12:]).abs().max() > 1e-3


def test_background_is_a_region_where_no_reference_acts():
    flux = small_flux(depth=0, depth_single_blocks=1)
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(2))
    model, calls = record(patched)
    sample(model, add_region(positive, region(0, left_half())), steps=1)
    sample(model, positive, steps=1)
    assert (calls[0].output[..., 12:] - calls[1].output[..., 12:]).abs().max() < 1e-5
    assert (calls[0].output[..., :12] - calls[1].output[..., :12]).abs().max() > 1e-3
    # Everything background: image tokens see no reference, as if nobody had applied one (but for the task embedding).
    neutral = make_model()
    neutral.embeddings.task[1] = 0
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(2), neutral)
    model, calls = record(patched)
    sample(model, add_region(positive, region(0, torch.ones(1, 2, 2))), steps=1)
    sample(model, make_conditioning(), steps=1)
    assert (calls[0].output - calls[1].output).abs().max() < 1e-5


def test_both_forms_agree_through_the_sampler(flux):
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(3))
    results = [sample(routed(patched, form=form), positive, steps=4, cfg=2.0) for form in ("low-rank", "dense")]
    assert not torch.equal(results[0], sample(patched, positive, steps=4, cfg=2.0))
    assert (results[0] - results[1]).abs().max() < 1e-4


BACKENDS = ["basic", "sub_quad", "split", "pytorch"]


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_both_forms_agree_on_every_backend_of_the_host(backend, dtype, tolerance):
    attention = getattr(host_attention, f"attention_{backend}")
    generator = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(2, 3, 60, 32, generator=generator).to(dtype) for _ in range(3))
    bias = torch.rand(2, 60, 3, generator=generator).log()
    bias[:, 10:20, 1] = NEVER
    groups = key_columns(60, [(30, 40), (40, 55), (55, 60)], k)
    call = lambda q, k, v, mask=None: attention(q, k, v, 3, mask=mask, skip_reshape=True)  # noqa: E731
    ours, theirs = low_rank_attention(call, q, k, v, bias, groups), dense_attention(call, q, k, v, bias, groups)
    exact = [t.float() for t in (q, k, v)]
    exact = dense_attention(
        lambda q, k, v, m: host_attention.attention_pytorch(q, k, v, 3, mask=m, skip_reshape=True), *exact, bias, groups
    )
    # Kernels that keep logits in bf16 round each form in its own way: what counts is how far each is from the truth.
    assert all((form.float() - exact).abs().max() < tolerance for form in (ours, theirs))
    if backend == "pytorch":
        assert (ours - theirs).abs().max() < tolerance


@pytest.mark.parametrize("boolean", [False, True])
def test_a_mask_that_is_there_already_stays(boolean):
    generator = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(1, 2, 30, 16, generator=generator) for _ in range(3))
    mask = torch.rand(30, 30, generator=generator) > 0.3
    mask = mask if boolean else torch.zeros(30, 30).masked_fill(~mask, -torch.inf)
    bias, groups = torch.rand(1, 30, 1, generator=generator).log(), key_columns(30, [(10, 30)], k)

    def call(q, k, v, extra=mask):
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=extra)
        return out.transpose(1, 2).flatten(2)

    dense = dense_attention(call, q, k, v, bias, groups, mask)
    assert (dense - low_rank_attention(call, q, k, v, bias, groups)).abs().max() < 1e-5


def test_both_forms_have_the_same_gradients():
    generator = torch.Generator().manual_seed(3)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    start = [draw(2, 3, 40, 16), draw(2, 3, 40, 16), draw(2, 3, 40, 16), draw(2, 40, 2)]
    groups = key_columns(40, [(10, 20), (20, 40)], start[1])
    gradients = []
    for attention in (low_rank_attention, dense_attention):
        inputs = [t.clone().requires_grad_() for t in start]

        def call(q, k, v, mask=None):
            out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return out.transpose(1, 2).flatten(2)

        with torch.enable_grad():
            attention(call, *inputs, groups).square().sum().backward()
        gradients.append([t.grad for t in inputs])
    assert all((a - b).abs().max() < 1e-4 for a, b in zip(*gradients, strict=True))


def test_heads_that_are_too_wide_take_the_dense_form(caplog):
    flux = small_flux(hidden_size=512, num_heads=2, axes_dim=[64, 96, 96], depth=1, depth_single_blocks=0)
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(1), make_model(512))
    with caplog.at_level(logging.INFO):
        sample(routed(patched), positive, steps=3)
    assert [r.message for r in caplog.records if "DreamO" in r.message] == [
        "DreamO: the bias on references is added in its dense form."
    ]


def test_the_log_says_the_form_once_a_run(flux, caplog):
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(1))
    with caplog.at_level(logging.INFO):
        sample(routed(patched), positive, steps=4)
    assert sum("low-rank form" in r.message for r in caplog.records) == 1


def test_batch_has_masks_of_its_own(flux):
    """Each sample of a batch is routed as it would be alone."""
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(2))
    latent = torch.randn(2, 16, 16, 24, generator=torch.Generator().manual_seed(5))
    recorder, how = Recorder(), {"steps": 4, "denoise": 0.5, "disable_noise": True}
    both = sample(watched(routed(patched), recorder), positive, latent=latent, **how)
    alone = [sample(routed(patched), positive, latent=latent[n : n + 1], **how) for n in range(2)]
    assert (both - torch.cat(alone)).abs().max() < 1e-4
    _, regions = recorder.maps((128, 192)).last()
    assert regions.shape == (2, 2, *GRID) and not torch.equal(regions[:, 0], regions[:, 1])


def test_conditionings_that_share_a_batch_keep_their_masks(flux):
    """The host runs equal-looking conditionings as one batch; each part is routed by its own maps."""
    chain = make_chain(2)
    patched, first = apply_dreamo(flux, make_conditioning(0), chain)
    _, second = apply_dreamo(flux, make_conditioning(1), chain)
    both = nodes.ConditioningCombine().combine(first, second)[0]
    recorder = Recorder()
    recorded, calls = record(routed(patched))
    sample(watched(recorded, recorder), both, steps=3)
    assert [call.x.shape[0] for call in calls] == [2, 2, 2]
    prompts = recorder.maps((128, 192)).prompts
    assert len(prompts) == 2 and not torch.equal(prompts[0][-1].maps, prompts[1][-1].maps)
    # With a region on one of them they are two batches.
    recorded, calls = record(routed(patched))
    sample(recorded, nodes.ConditioningCombine().combine(add_region(first, region(1, left_half())), second)[0], steps=1)
    assert [call.x.shape[0] for call in calls] == [1, 1]


def test_cfg_leaves_the_negative_pass_alone(flux):
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(2))
    results = []
    for model in (patched, routed(patched)):
        recorded, calls = record(model)
        sample(recorded, positive, cfg=2.5, steps=1)
        results.append([call.output for call in calls if not call.ref_latents][0])
    assert torch.equal(*results)


def test_references_that_come_and_go(flux):
    chain = (make_reference(8, 8, 0, end_percent=0.5), make_reference(4, 6, 1, start_percent=0.3))
    patched, positive = apply_dreamo(flux, make_conditioning(), chain)
    recorder = Recorder()
    assert torch.isfinite(sample(watched(routed(patched), recorder), positive, steps=8)).all()
    (steps,) = recorder.maps((128, 192)).prompts
    assert {step.references for step in steps} == {(1,), (1, 2), (2,)}


def test_conditioning_timestep_ranges(flux):
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(2))
    set_range = nodes.ConditioningSetTimestepRange().set_range
    parts = set_range(positive, 0.0, 0.5)[0] + set_range(make_conditioning(1), 0.5, 1.0)[0]
    assert torch.isfinite(sample(routed(patched), parts, steps=6)).all()


def test_sizes_change_between_passes(flux):
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(2))
    positive = add_region(positive, region(1, left_half()))
    model = routed(patched)
    first = sample(model, positive, steps=3)
    larger = torch.nn.functional.interpolate(first, scale_factor=1.5)
    second = sample(model, positive, latent=larger, denoise=0.6, steps=4)
    assert second.shape[-2:] == (24, 36) and torch.isfinite(second).all()
    assert torch.equal(sample(model, positive, steps=3), first)


def test_an_area_is_routed_by_its_part_of_the_picture(flux):
    """The right half of the picture as an area: a region that is the left half is empty there."""
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(1))
    area = lambda c: nodes.ConditioningSetArea().append(c, 96, 128, 96, 0, 1.0)[0]  # noqa: E731
    results = []
    for mask in (left_half(), torch.zeros(1, 4, 4), torch.ones(1, 4, 4)):
        recorded, calls = record(patched)
        sample(recorded, area(add_region(positive, region(1, mask))), steps=1)
        results.append(calls[0].output)
    assert results[0].shape[-1] == 12
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


@pytest.mark.parametrize("layout", ["xlabs", "union"])
def test_controlnet(flux, layout):
    vae = small_models.small_vae()
    control_net = small_models.small_controlnet(layout)
    hint = torch.rand(1, 128, 192, 3, generator=torch.Generator().manual_seed(1))
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(2))
    controlled, _ = nodes.ControlNetApplyAdvanced().apply_controlnet(
        positive, make_conditioning(99), control_net, hint, 0.8, 0.0, 1.0, vae if layout == "union" else None
    )
    results = [sample(model, c) for model in (patched, routed(patched)) for c in (positive, controlled)]
    assert all(torch.isfinite(r).all() for r in results)
    assert len({r.sum().item() for r in results}) == 4
    # A pass in front of the step has the control too, and does not use it up.
    twice = sample(routed(patched, masks_from="extra first pass"), controlled)
    assert torch.isfinite(twice).all() and not torch.equal(twice, results[3])


def test_other_overrides_are_called(flux):
    seen = []

    def counting(attention, q, *args, **kwargs):
        seen.append(q.shape[-1])
        return attention(q, *args, **kwargs)

    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(1))
    model = routed(patched)
    alone = sample(model, positive, steps=3)
    model.model_options["transformer_options"]["optimized_attention_override"] = counting
    assert torch.equal(sample(model, positive, steps=3), alone)
    # 6 blocks and 3 steps; the first is not biased, and in the others heads of 32 have 8 more columns.
    assert seen == [32] * 6 + [40] * 12


def test_plain_uxo_references_of_stock_nodes(flux):
    positive = make_conditioning()
    for size, seed in (((8, 8), 0), ((6, 10), 1)):
        latent = torch.randn(1, 16, *size, generator=torch.Generator().manual_seed(seed))
        positive = nodes_edit_model.ReferenceLatent.execute(positive, {"samples": latent}).result[0]
    positive = nodes_flux.FluxKontextMultiReferenceLatentMethod.execute(positive, "uxo/uno").result[0]
    plain = sample(flux, positive, steps=4)
    assert torch.equal(sample(routed(flux, strength=0.0), positive, steps=4), plain)
    recorder = Recorder()
    assert not torch.equal(sample(watched(routed(flux), recorder), positive, steps=4), plain)
    assert recorder.maps((128, 192)).prompts[0][-1].references == (1, 2)
    # By hand as well, where the model understands references.
    by_hand = add_region(positive, region(1, left_half()))
    assert not torch.equal(sample(routed(flux, stop=0.0), by_hand, steps=2), sample(flux, positive, steps=2))
    # And so are references of any other method, as Kontext has them.
    offset = nodes_flux.FluxKontextMultiReferenceLatentMethod.execute(positive, "offset").result[0]
    plain = sample(flux, offset, steps=4)
    assert torch.equal(sample(routed(flux, strength=0.0), offset, steps=4), plain)
    assert not torch.equal(sample(routed(flux), offset, steps=4), plain)


def test_a_style_is_not_confined_but_by_hand(flux):
    style = replace(make_reference(), task="style")
    patched, positive = apply_dreamo(flux, make_conditioning(), (style,))
    plain = sample(patched, positive, steps=4)
    assert torch.equal(sample(routed(patched), positive, steps=4), plain)
    assert not torch.equal(sample(routed(patched), add_region(positive, region(1, left_half())), steps=4), plain)


def test_stop_freezes_the_regions(flux):
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(2))
    recorder = Recorder()
    sample(watched(routed(patched, stop=0.5), recorder), positive, steps=8)
    (steps,) = recorder.maps((128, 192)).prompts
    changed = [not torch.equal(a.maps, b.maps) for a, b in zip(steps, steps[1:], strict=False)]
    assert changed == [True] * 3 + [False] * 4
    assert [step.progress for step in steps] == [n / 8 for n in range(8)]
    assert torch.equal(steps[5].influence, steps[4].regions)


@pytest.mark.parametrize("sampler, calls", [("heun", 5), ("dpmpp_2m", 3)])
def test_samplers_with_their_own_calls(flux, sampler, calls):
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(2))
    recorder = Recorder()
    assert torch.isfinite(sample(watched(routed(patched), recorder), positive, sampler=sampler, steps=3)).all()
    (steps,) = recorder.maps((128, 192)).prompts
    assert len(steps) == calls


def test_custom_sampler_nodes(flux):
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(2))
    model = routed(patched)
    guider = nodes_custom_sampler.BasicGuider.execute(model, positive).result[0]
    out = nodes_custom_sampler.SamplerCustomAdvanced.execute(
        nodes_custom_sampler.RandomNoise.execute(1).result[0],
        guider,
        nodes_custom_sampler.KSamplerSelect.execute("euler").result[0],
        nodes_custom_sampler.BasicScheduler.execute(model, "simple", 3, 1.0).result[0],
        {"samples": empty_latent()},
    ).result[0]["samples"]
    assert (out - sample(model, positive, steps=3)).abs().max() < 1e-5


def test_order_of_the_nodes_does_not_matter(flux):
    chain = make_chain(2)
    first, positive = apply_dreamo(routed(flux), make_conditioning(), chain)
    second = routed(apply_dreamo(flux, make_conditioning(), chain)[0])
    assert torch.equal(sample(first, positive), sample(second, positive))
    before = apply_dreamo(flux, add_region(make_conditioning(), region(1, left_half())), chain)[1]
    assert torch.equal(sample(first, before), sample(first, add_region(positive, region(1, left_half()))))


def test_nothing_is_kept(flux):
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(2))
    model = routed(patched)
    options = str(model.model_options)
    once = sample(model, positive)
    assert str(model.model_options) == options
    assert torch.equal(sample(model, positive), once)


@pytest.mark.long
@pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")),
    reason="TorchCompileModel needs a C++ compiler on CPU; install g++ to run this",
)
def test_torch_compile():
    """Reading maps and biasing attention inside a compiled forward give what the plain one gives."""
    flux = small_flux(depth=1, depth_single_blocks=1)
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(1))
    model = routed(patched)
    plain = sample(model, positive, steps=2)
    assert not torch.equal(plain, sample(patched, positive, steps=2))
    compiled = TorchCompileModel.execute(model, "inductor").result[0]
    assert torch.allclose(sample(compiled, positive, steps=2), plain, atol=1e-3)


def make_router(settings, count=2, words=(), **options):
    references = [ReferenceSetting(i) for i in range(1, count + 1)]
    run = options.pop("run", Run())
    blocks = (Block("double", 0),)
    entry = RoutingConditioning((), words)
    device = torch.device("cpu")
    return Router(settings, references, entry, blocks, GRID, 1, 7, options, True, device, run, 0, lambda: 1.0)


def test_kept_keys_of_references_are_biased_and_nothing_is_read_from_them():
    """Where other keys stand in for the references' (K/V reuse), they are no queries, and regions go on acting."""
    run = Run()
    generator = torch.Generator().manual_seed(0)
    draw = lambda length: torch.randn(1, 2, length, 16, generator=generator)  # noqa: E731
    settings = RoutingSettings(reference_influence=0.0)
    first = make_router(settings, run=run)
    whole = Layout(7, 96, ((103, 119), (119, 134)))
    assert first.query_bias(Block("double", 0), whole, draw(134), draw(134)).shape == (1, 134, 2)
    first.finished()
    known = run.part("routing", dict).averages
    before = {key: {i: m.clone() for i, m in maps.items()} for key, maps in known.items()}
    # The second reference has lost most of its tokens (pruning), and only text and image are queries.
    second = make_router(settings, run=run)
    bias = second.query_bias(Block("double", 0), Layout(7, 96, ((103, 119), (119, 122))), draw(103), draw(122))
    assert bias.shape == (1, 103, 2) and (bias[:, :7] == 0).all() and (bias[:, 7:] < 0).any()
    second.finished()
    assert all(torch.equal(known[key][i], m) for key, maps in before.items() for i, m in maps.items())


def test_regions_act_with_cheap_references(flux):
    """With K/V reuse, refreshing every step is the same routing; in between, maps stay and regions go on acting."""
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(2))
    model = routed(patched, masks_from="extra first pass")
    plain = sample(model, positive, steps=4)
    always = with_policy(model, ReusePolicy(refresh="every n steps", interval=1))
    assert torch.equal(sample(always, positive, steps=4), plain)
    recorder = Recorder()
    seldom = with_policy(model, ReusePolicy(refresh="every n steps", interval=3))
    assert not torch.equal(sample(watched(seldom, recorder), positive, steps=4), plain)
    (steps,) = recorder.maps((128, 192)).prompts
    assert all(step.influence.min() == 0 for step in steps)


def test_influence_on_other_queries():
    routing = make_router(RoutingSettings(text_influence=0.5, reference_influence=0.0))
    q = torch.zeros(1, 2, 134, 16)
    bias = routing.query_bias(Block("double", 5), Layout(7, 96, ((103, 119), (119, 134))), q, q)
    assert bias[0, :7].allclose(torch.tensor(0.5).log()) and (bias[0, 7:103] == 0).all()
    assert (bias[0, 103:119, 0] == 0).all() and (bias[0, 103:119, 1] == NEVER).all()
    assert (bias[0, 119:, 1] == 0).all() and (bias[0, 119:, 0] == NEVER).all()


@pytest.fixture(scope="module")
def clip():
    return small_models.small_text_encoders()


PROMPT = "a Cat on a skateboard, two cats and a catalog next to a cup of coffee"


def test_words_are_found_in_the_prompt(clip):
    pieces = text_pieces(clip, PROMPT)
    assert len(pieces) == clip.encode_from_tokens(clip.tokenize(PROMPT)).shape[1]
    spelled = lambda at: "".join(pieces[p].spelling for p in at).replace("▁", " ").lower()  # noqa: E731
    assert spelled(positions_of(pieces, "cat")).replace(" ", "") in ("catcat", "catcats")
    assert spelled(positions_of(pieces, "cup of  Coffee")) == " cup of coffee"
    with pytest.raises(ValueError, match="The prompt has no 'dog'; write the word as it stands"):
        positions_of(pieces, "dog")
    assert words_for_references(pieces, "\nskateboard\n") == ((), positions_of(pieces, "skateboard"))
    with pytest.raises(ValueError, match="No word is given"):
        words_for_references(pieces, " \n")
    with pytest.raises(ValueError, match="has no T5"):
        text_pieces(type("Clip", (), {"tokenizer": None, "cond_stage_model": None})(), "cat")


def encoded(clip, text):
    return clip.encode_from_tokens_scheduled(clip.tokenize(text), add_dict={"guidance": 3.5})


@pytest.mark.parametrize("masks_from", ["previous step", "pass without references"])
@pytest.mark.parametrize("source", ["words", "both"])
def test_words_route(flux, clip, source, masks_from):
    patched, positive = apply_dreamo(flux, encoded(clip, PROMPT), make_chain(2))
    positive = DreamORoutingWords.execute(positive, clip, PROMPT, "cat\ncup of coffee").result[0]
    recorder = Recorder()
    model, calls = record(routed(patched, source=source, masks_from=masks_from))
    result = sample(watched(model, recorder), positive, steps=4)
    assert torch.isfinite(result).all() and not torch.equal(result, sample(patched, positive, steps=4))
    (steps,) = recorder.maps((128, 192)).prompts
    assert (steps[-1].regions > 0).flatten(1).sum(1).min() > 0
    counts = [len(call.ref_latents or []) for call in calls]
    if masks_from == "previous step":
        assert counts == [2] * 4 and steps[0].influence.min() == 1
    else:
        # Passes without references up to the stop, and the first step is routed already.
        assert counts == [0, 2, 0, 2, 2, 2] and steps[0].influence.min() == 0


def test_placeholders_are_words(flux, clip):
    """`[ref#i]` in the prompt names reference i; a word given by hand goes before it."""
    at = PlaceholderPositions((("[ref#1]", (2,)), ("[ref#2]", (4, 5))))
    assert RoutingConditioning().named_by(at, 3).words == ((2,), (4, 5), ())
    assert RoutingConditioning(words=((), (7,))).named_by(at, 3).words == ((2,), (7,), ())
    embeddings = make_model()
    text = "a woman from [ref#1] and a dog from [ref#2]"
    prompt = encode_prompt(clip, embeddings.embeddings, "dreamo.safetensors", text, 3.5)
    patched, positive = apply_dreamo(flux, prompt, make_chain(2), embeddings)
    results = [sample(routed(patched, source=source), positive, steps=3) for source in ("words", "references")]
    assert not torch.equal(*results)


def test_prepended_text_moves_the_words_along(flux, clip):
    """Someone puts tokens in front of the text (as USO does): the same words are read."""
    seen = []
    original = participant_module.word_maps

    def spy(q, k, image, prompt, words):
        seen.append((prompt, [tuple(at.tolist()) for at in words]))
        return original(q, k, image, prompt, words)

    def prepend(args):
        txt, ids = args["txt"], args["txt_ids"]
        return {**args, "txt": torch.cat((txt[:, :3], txt), 1), "txt_ids": torch.cat((ids[:, :3], ids), 1)}

    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(1))
    model = routed(patched, source="words")
    model.set_model_post_input_patch(prepend)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(participant_module, "word_maps", spy)
        sample(model, set_words(positive, ((2, 4),)), steps=1)
    assert set(map(str, seen)) == {str(((3, 10), [(5, 7)]))}


def test_a_pass_without_references_wants_words(flux):
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(2))
    model = routed(patched, masks_from="pass without references")
    with pytest.raises(ValueError, match="the prompt names no reference; write .*DreamO Routing Words"):
        sample(model, positive, steps=1)
    assert torch.isfinite(sample(model, set_words(positive, ((), (3,))), steps=1)).all()


def test_backends_that_cannot_take_a_form_are_replaced():
    """Sage attention drops masks silently and flash attention has none; both would give something else."""
    pytorch, other = host_attention.attention_pytorch, host_attention.attention_split
    sage, flash = host_attention.attention_sage, host_attention.attention_flash
    assert attention_for_bias(sage, "dense") is attention_for_bias(sage, "low-rank") is pytorch
    assert attention_for_bias(flash, "dense") is pytorch and attention_for_bias(flash, "low-rank") is flash
    assert attention_for_bias(other, "dense") is attention_for_bias(other, "low-rank") is other


def test_a_region_for_a_missing_reference_is_refused(flux):
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(2))
    message = "a region or a word for reference 3, but the conditioning carries 2"
    with pytest.raises(ValueError, match=message):
        DreamORegion.execute(positive, left_half(), 3, "fill it", 0, False)
    early = DreamORegion.execute(make_conditioning(), left_half(), 3, "fill it", 0, False).result[0]
    with pytest.raises(ValueError, match=message):
        sample(*apply_dreamo(flux, early, make_chain(2)))


def test_blocks_that_the_model_does_not_have_are_refused(flux):
    with pytest.raises(ValueError, match="the model has 2 double and 4 single blocks"):
        DreamORouting.execute(flux, blocks="double 19")


def test_routing_wants_flux():
    other = type("Other", (), {"get_model_object": lambda self, name: None, "model": object()})()
    with pytest.raises(ValueError, match="need a FLUX.1 or FLUX.2 model, got object"):
        DreamORouting.execute(other)


def run_sampler(model, positive, latent=None, **options):
    how = {"seed": 1, "steps": 4, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    latent = {"samples": empty_latent() if latent is None else latent}
    return DreamORoutedSampler.execute(
        model, positive, make_conditioning(99), latent, live_maps=options.pop("live_maps", False), **{**how, **options}
    ).result


def test_the_routed_sampler_is_the_hosts_sampler_with_routing(flux):
    chain, dreamo = make_chain(2), make_model()
    patched, positive = apply_dreamo(flux, make_conditioning(), chain, dreamo)
    latent, masks, heat, maps = run_sampler(flux, make_conditioning(), references=chain, dreamo_model=dreamo)
    assert torch.equal(latent["samples"], sample(routed(patched), positive, steps=4))
    assert masks.shape == (2, 128, 192) and heat.shape == (2, 128, 192, 3)
    assert 0 <= masks.min() and masks.max() <= 1 and masks.flatten(1).amax(1).min() > 0
    assert torch.equal(run_sampler(patched, positive)[0]["samples"], latent["samples"])
    # Its settings are those of a routing node in front of it.
    off = run_sampler(routed(patched, strength=0.0), positive)[0]["samples"]
    assert torch.equal(off, sample(patched, positive, steps=4))
    # Without DreamO's embeddings.
    assert not torch.equal(run_sampler(flux, make_conditioning(), references=chain)[0]["samples"], latent["samples"])
    overlay, steps = DreamORoutingPreview.execute(maps, 0.8, torch.rand(1, 128, 192, 3)).result
    assert overlay.shape[0] == steps.shape[0] == 1 and overlay.shape[2:] == (192, 3) and overlay.shape[1] > 128


def test_the_routed_sampler_with_a_batch(flux):
    chain = make_chain(2)
    latent, masks, heat, maps = run_sampler(flux, make_conditioning(), empty_latent(batch=3), references=chain)
    assert latent["samples"].shape[0] == 3 and masks.shape == (6, 128, 192) and heat.shape == (6, 128, 192, 3)
    overlay, steps = DreamORoutingPreview.execute(maps, 0.8).result
    assert overlay.shape[0] == steps.shape[0] == 3


def test_the_routed_sampler_without_references_says_so(flux):
    with pytest.raises(ValueError, match="No reference took part in sampling; give this node references"):
        run_sampler(flux, make_conditioning())


def test_live_maps_are_shown_while_sampling(flux, monkeypatch):
    import comfy.utils

    shown = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, preview, **_: shown.append(preview))
    plain = run_sampler(flux, make_conditioning(), references=make_chain(2))[0]["samples"]
    assert all(preview is None for preview in shown)
    shown.clear()
    live = run_sampler(flux, make_conditioning(), references=make_chain(2), live_maps=True)[0]["samples"]
    assert torch.equal(live, plain)
    assert [preview[1].size for preview in shown] == [(192, 128)] * 4
    low, high = zip(*shown[-1][1].getextrema(), strict=True)
    assert max(high) > max(low)


def test_whole_and_area_conditionings_together_do_not_lose_the_run(flux, monkeypatch):
    """A call for an area has maps of another shape: those of the whole image are shown."""
    import comfy.utils

    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda *args, **_: None)
    chain = make_chain(2)
    patched, positive = apply_dreamo(flux, make_conditioning(), chain)
    _, second = apply_dreamo(flux, make_conditioning(1), chain)
    area = nodes.ConditioningSetArea().append(second, 96, 64, 32, 16, 1.0)[0]
    latent, masks, heat, maps = run_sampler(patched, positive + area, live_maps=True)
    assert torch.equal(latent["samples"], sample(routed(patched), positive + area, steps=4))
    assert masks.shape == (2, 128, 192) and len(maps.prompts) == 1
    # The order in which they are combined does not matter for what is shown.
    assert run_sampler(patched, area + positive)[1].shape == (2, 128, 192)


def test_areas_alone_have_empty_maps_and_a_picture(flux, caplog):
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(2))
    area = nodes.ConditioningSetArea().append(positive, 96, 64, 32, 16, 1.0)[0]
    latent, masks, heat, maps = run_sampler(patched, area + make_conditioning(2), empty_latent(batch=2))
    assert torch.isfinite(latent["samples"]).all() and masks.shape == (4, 128, 192) and masks.max() == 0
    assert heat.shape == (4, 128, 192, 3)
    assert sum("its maps are empty" in record.message for record in caplog.records) == 1
    overlay, steps = DreamORoutingPreview.execute(maps, 0.8).result
    assert overlay.shape[0] == steps.shape[0] == 2


def test_tiles_do_not_lose_the_run_either(flux):
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(1))
    latent, masks, _, _ = run_sampler(with_tiles(patched, [(0, 12), (12, 24)]), positive)
    assert torch.isfinite(latent["samples"]).all() and masks.shape == (1, 128, 192)


def test_rising_schedules_route(flux):
    """When an image is turned back into noise the steps are counted from the other end."""
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(2))
    recorder = Recorder()
    guider = nodes_custom_sampler.BasicGuider.execute(watched(routed(patched, stop=0.5), recorder), positive).result[0]
    nodes_custom_sampler.SamplerCustomAdvanced.execute(
        nodes_custom_sampler.DisableNoise.execute().result[0],
        guider,
        nodes_custom_sampler.KSamplerSelect.execute("euler").result[0],
        torch.linspace(0.05, 0.95, 7),
        {"samples": torch.rand(1, 16, 16, 24, generator=torch.Generator().manual_seed(1))},
    )
    (steps,) = recorder.maps((128, 192)).prompts
    assert [step.progress for step in steps] == [n / 6 for n in range(6)]
    changed = [not torch.equal(a.maps, b.maps) for a, b in zip(steps, steps[1:], strict=False)]
    assert changed == [True, True, False, False, False]
    assert steps[1].influence.min() < 1


def test_steps_done():
    falling = [1.0, 0.8, 0.5, 0.2, 0.0]
    assert [steps_done(falling, s) for s in (1.0, 0.9, 0.8, 0.5, 0.3, 0.2, 0.0)] == [0, 0.25, 0.25, 0.5, 0.75, 0.75, 1]
    # A float32 noise level may be off a bit, to either side; more than that is another place in the schedule.
    assert [steps_done(falling, 0.8 * (1 + off)) for off in (-9e-6, 9e-6)] == [0.25, 0.25]
    assert [steps_done(falling, 0.8 * (1 + off)) for off in (-2e-5, 2e-5)] == [0.5, 0.25]
    rising = [0.1, 0.3, 0.6, 0.9]
    assert [steps_done(rising, s) for s in (0.1, 0.2, 0.3, 0.6, 0.9)] == [0, 1 / 3, 1 / 3, 2 / 3, 1]
    assert [steps_done(rising, 0.3 * (1 + off)) for off in (-9e-6, 9e-6, 2e-5)] == [1 / 3, 1 / 3, 2 / 3]
    assert steps_done([1.0], 0.5) is None and steps_done([], 0.5) is None
    assert [steps_done([1.0, 0.0], s) for s in (1.0, 0.0)] == [0, 1]
    # The rounding's bound itself is still rounding.
    assert steps_done([1.0, 0.8 * (1 + 1e-5), 0.0], 0.8) == steps_done([0.1, 0.3 * (1 - 1e-5), 0.9], 0.3) == 0.5
    # Whether it rises is told by its ends.
    assert steps_done([0.8, 0.9, 0.4, 0.0], 0.4) == steps_done([0.5, 0.7, 0.6, 0.2], 0.5) == 2 / 3
    assert steps_done([0.5, 0.1, 0.3], 0.05) == 1


WITH_PLACEHOLDERS = "a woman from [ref#1] and a dog from [ref#2] in the park"


def words_on(conditioning):
    return [values["model_conds"]["dreamo_routing_conditioning"].cond.words for _, values in conditioning]


@pytest.mark.parametrize("taught", [True, False], ids=["CLIP with placeholders", "plain CLIP"])
def test_words_beside_placeholders_are_the_right_tokens(clip, taught):
    """A placeholder is one token, so every word behind it stands elsewhere than a plain CLIP would count."""
    model = make_model()
    positive = encode_prompt(clip, model.embeddings, "dreamo.safetensors", WITH_PLACEHOLDERS, 3.5)
    given = with_placeholders(clip, model.embeddings, "dreamo.safetensors") if taught else clip
    (words,) = words_on(DreamORoutingWords.execute(positive, given, WITH_PLACEHOLDERS, "woman\ndog\npark").result[0])
    # In the tokens that were encoded: found by their ids, beside the placeholders' known places.
    tokens = with_placeholders(clip, model.embeddings, "").tokenize(WITH_PLACEHOLDERS)["t5xxl"][0]
    vocabulary = clip.tokenizer.t5xxl.inv_vocab
    spelled = ["" if torch.is_tensor(t[0]) else vocabulary[t[0]] for t in tokens]
    for phrase, at in zip(("woman", "dog", "park"), words, strict=True):
        assert "".join(spelled[p] for p in at).replace("▁", "") == phrase


@pytest.mark.parametrize("kind", ["stock", "placeholders", "none", "longer"])
def test_words_of_another_prompt_are_an_error(clip, kind):
    model = make_model()
    encode = lambda text: encode_prompt(clip, model.embeddings, "dreamo.safetensors", text, 3.5)  # noqa: E731
    positive, text = {
        "stock": (encoded(clip, PROMPT), PROMPT.replace("skateboard", "bicycle")),
        "placeholders": (encode(WITH_PLACEHOLDERS), WITH_PLACEHOLDERS.replace("[ref#1]", "[ref#3]")),
        "none": (encode("a cat and a dog"), "a cat and a fox"),
        "longer": (encoded(clip, "a cat"), "a cat " * 300),
    }[kind]
    with pytest.raises(ValueError, match="not the prompt that the conditioning was encoded from"):
        DreamORoutingWords.execute(positive, clip, text, text.split()[1])


def test_words_go_on_the_parts_that_have_them(clip):
    """Combined prompts: the part of another prompt is left alone; what other nodes append does not matter."""
    first, second = encoded(clip, PROMPT), encoded(clip, "an empty street")
    longer = [[torch.cat((first[0][0], torch.randn(1, 5, first[0][0].shape[2])), 1), first[0][1]]]
    named = DreamORoutingWords.execute(longer + second, clip, PROMPT, "cat").result[0]
    assert words_on(named[:1]) == [(positions_of(text_pieces(clip, PROMPT), "cat"),)]
    assert "model_conds" not in named[1][1]


def test_an_extra_first_pass_runs_while_no_conditioning_of_the_call_has_maps():
    """The host may put a conditioning that has maps and one that has none into one batch: no pass for either then."""
    run, settings = Run(), RoutingSettings(masks_from="extra first pass")
    layout, generator = Layout(7, 96, ((103, 119), (119, 134))), torch.Generator().manual_seed(0)

    def call(ids, read):
        references = [ReferenceSetting(1), ReferenceSetting(2)]
        options = {"uuids": ids}
        made = Router(
            settings, references, RoutingConditioning(), (Block("double", 0),), GRID, len(ids), 7, options, True,
            torch.device("cpu"), run, 0, lambda: 1.0,
        )  # fmt: skip
        wanted = made.wants_pass()
        if read:
            q = torch.randn(len(ids), 2, 134, 16, generator=generator)
            made.query_bias(Block("double", 0), layout, q, q)
            made.finished()
        return wanted

    assert call(["a"], True) == "extra first pass"
    assert call(["a"], False) is None and call(["b"], False) == "extra first pass"
    assert call(["a", "b"], False) is None and call(["b", "c"], False) == "extra first pass"

"""DreamO together with the host's other nodes, through the host's own classes.

Every chain gives a finite latent of the right size that differs from the same graph without references.
"""

import os
import shutil

import folder_paths
import pytest
import torch
from comfy_extras import nodes_custom_sampler, nodes_easycache, nodes_edit_model, nodes_flux, nodes_hooks
from comfy_extras.nodes_model_merging import ModelMergeSimple
from comfy_extras.nodes_torch_compile import TorchCompileModel
from dreamo_routed.dreamo_core.host.flux import with_cfg_range
from dreamo_routed.dreamo_core.sampling.cfg_range import CfgRange
from dreamo_routed.minidreamo.host import small_models
from safetensors.torch import save_file
from sampler_graphs import advanced, node, steps_of
from support import (
    apply_dreamo,
    empty_latent,
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


@pytest.fixture(scope="module")
def vae():
    return small_models.small_vae()


def check(graph, flux, size=(16, 24), batch=1, references=None):
    """Run `graph(model, positive)` with and without references and compare."""
    references = make_chain(2) if references is None else references
    plain = graph(flux, make_conditioning())
    with_references = graph(*apply_dreamo(flux, make_conditioning(), references))
    for latent in (plain, with_references):
        assert latent.shape == (batch, 16, *size) and torch.isfinite(latent).all()
    assert (plain - with_references).abs().max() > 1e-3
    return with_references


@pytest.mark.parametrize("layout", ["xlabs", "union"])
@pytest.mark.parametrize("control_first", [True, False])
def test_controlnet(flux, vae, layout, control_first):
    control_net = small_models.small_controlnet(layout)
    if layout == "union":
        control_net = control_net.copy()
        control_net.set_extra_arg("control_type", [2])
    hint = torch.rand(1, 128, 192, 3, generator=torch.Generator().manual_seed(1))

    def control(positive):
        return node("ControlNetApplyAdvanced")(
            positive=positive, negative=make_conditioning(99), control_net=control_net, image=hint,
            strength=0.8, start_percent=0.0, end_percent=0.9, vae=vae if layout == "union" else None,
        )  # fmt: skip

    uncontrolled, controlled = [], []

    def graph(model, positive):
        uncontrolled.append(sample(model, positive))
        controlled.append(sample(model, *control(positive), cfg=1.5))
        return controlled[-1]

    if control_first:
        patched, positive = apply_dreamo(flux, control(make_conditioning())[0], make_chain(2))
        assert torch.isfinite(sample(patched, positive)).all()
        assert not torch.equal(sample(patched, positive), sample(flux, control(make_conditioning())[0]))
    else:
        check(graph, flux)
        assert all((a - b).abs().max() > 1e-3 for a, b in zip(uncontrolled, controlled, strict=True))


@pytest.fixture(scope="module")
def lora_file():
    generator = torch.Generator().manual_seed(5)
    draw = lambda *shape: torch.randn(*shape, generator=generator) * 0.2  # noqa: E731
    prefix = "diffusion_model.double_blocks.0.img_attn.qkv"
    name = "small_test_lora.safetensors"
    folder = folder_paths.get_folder_paths("loras")[0]
    os.makedirs(folder, exist_ok=True)
    save_file(
        {f"{prefix}.lora_A.weight": draw(4, 128), f"{prefix}.lora_B.weight": draw(384, 4)}, os.path.join(folder, name)
    )
    return name


@pytest.mark.parametrize("lora_first", [True, False])
def test_lora(flux, lora_file, lora_first):
    load = lambda model: node("LoraLoaderModelOnly")(model=model, lora_name=lora_file, strength_model=1.0)[0]  # noqa: E731
    if lora_first:
        with_lora = check(sample, load(flux))
    else:
        patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(2))
        with_lora = sample(load(patched), positive)
    without = sample(*apply_dreamo(flux, make_conditioning(), make_chain(2)))
    assert (with_lora - without).abs().max() > 1e-3
    # The order of the two nodes does not matter.
    patched, positive = apply_dreamo(load(flux), make_conditioning(), make_chain(2))
    assert torch.equal(sample(patched, positive), with_lora)


def test_lora_hooks_on_the_conditioning(flux, lora_file):
    hooks = nodes_hooks.CreateHookLoraModelOnly().create_hook_model_only(lora_file, 1.0)[0]

    def graph(model, positive):
        hooked = nodes_hooks.ConditioningSetProperties().set_properties(positive, 1.0, "default", hooks=hooks)[0]
        hooked_result = sample(model, hooked)
        assert (hooked_result - sample(model, positive)).abs().max() > 1e-3
        return hooked_result

    check(graph, flux)


def test_conditioning_combine(flux):
    """One part has references, the other none, or other ones; each keeps its own."""
    patched, first = apply_dreamo(flux, make_conditioning(0), make_chain(2))
    _, second = apply_dreamo(flux, make_conditioning(1), (make_reference(6, 6, 5, strength=0.5),))
    combine = lambda a, b: node("ConditioningCombine")(conditioning_1=a, conditioning_2=b)[0]  # noqa: E731
    recorded, calls = record(patched)
    both = sample(recorded, combine(first, second), steps=1)
    assert sorted(len(call.ref_latents) for call in calls) == [1, 2]
    alone = [sample(patched, c, steps=1) for c in (first, second)]
    # The host averages the predictions of both parts.
    assert torch.allclose(both, (alone[0] + alone[1]) / 2, atol=1e-4)
    mixed = sample(patched, combine(first, make_conditioning(1)), steps=1)
    plain = sample(flux, make_conditioning(1), steps=1)
    assert torch.allclose(mixed, (alone[0] + plain) / 2, atol=1e-4)


def test_apply_after_combine(flux):
    combined = node("ConditioningCombine")(conditioning_1=make_conditioning(0), conditioning_2=make_conditioning(1))[0]
    patched, positive = apply_dreamo(flux, combined, make_chain(2))
    recorded, calls = record(patched)
    sample(recorded, positive, steps=1)
    # Equal settings: the host may run both parts as one batch, and does.
    assert [call.x.shape[0] for call in calls] == [2]
    assert len(calls[0].ref_latents) == 2 and calls[0].ref_latents[0].shape[0] == 2


def test_timestep_range(flux):
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(2))
    set_range = lambda c, a, b: node("ConditioningSetTimestepRange")(conditioning=c, start=a, end=b)[0]  # noqa: E731
    early, late = set_range(positive, 0.0, 0.4), set_range(make_conditioning(), 0.4, 1.0)
    recorded, calls = record(patched)
    latent = sample(recorded, early + late, steps=6)
    assert torch.isfinite(latent).all()
    counts = [len(call.ref_latents or []) for call in calls]
    assert counts == sorted(counts, reverse=True) and set(counts) == {0, 2}


def test_first_step_guidance_with_stock_nodes(flux):
    """The reference pipeline's different guidance on the first step: two FluxGuidance, two ranges, one combine."""
    set_range = node("ConditioningSetTimestepRange")
    guide = lambda value: nodes_flux.FluxGuidance.execute(make_conditioning(), value).result[0]  # noqa: E731
    first = set_range(conditioning=guide(7.0), start=0.0, end=0.001)[0]
    rest = set_range(conditioning=guide(4.5), start=0.001, end=1.0)[0]
    combined = node("ConditioningCombine")(conditioning_1=first, conditioning_2=rest)[0]
    patched, positive = apply_dreamo(flux, combined, make_chain(1))
    recorded, calls = record(patched)
    sample(recorded, positive, steps=5)
    assert [call.guidance.item() for call in calls] == [7.0, 4.5, 4.5, 4.5, 4.5]
    assert all(len(call.ref_latents) == 1 for call in calls)


@pytest.mark.parametrize("start, end, expected", [(0.0, 1.0, 6), (0.0, 0.3, None), (0.5, 1.0, None), (1.0, 1.0, 0)])
def test_true_cfg_range(flux, start, end, expected):
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(1))
    recorded, calls = record(with_cfg_range(patched, CfgRange(start, end)))
    latent = sample(recorded, positive, cfg=2.5, steps=6)
    sampling = flux.get_model_object("model_sampling")
    sigmas = [c.timestep.item() for c in calls if c.ref_latents]
    low, high = sampling.percent_to_sigma(end), sampling.percent_to_sigma(start)
    inside = [s for s in sigmas if low <= s <= high]
    negatives = [c.timestep.item() for c in calls if not c.ref_latents]
    assert len(sigmas) == 6 and negatives == inside
    if expected is not None:
        assert len(negatives) == expected
    full = sample(patched, positive, cfg=2.5, steps=6)
    off = sample(patched, positive, cfg=1.0, steps=6)
    assert torch.equal(latent, full) == (len(inside) == 6)
    assert torch.allclose(latent, off, atol=1e-5) == (len(inside) == 0)


def test_cfg_range_leaves_other_uses_alone(flux):
    """A guider with three conditionings is not plain CFG; the range does not touch it."""
    ranged = with_cfg_range(flux, CfgRange(1.0, 1.0))
    results = []
    for model in (flux, ranged):
        guider = nodes_custom_sampler.DualCFGGuider.execute(
            model, make_conditioning(0), make_conditioning(1), make_conditioning(2), 2.0, 1.5, "regular"
        ).result[0]
        results.append(advanced(guider))
    assert torch.equal(*results)


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "uni_pc"])
def test_sampler_custom_advanced(flux, sampler):
    def graph(model, positive):
        guider = nodes_custom_sampler.CFGGuider.execute(model, positive, make_conditioning(99), 2.0).result[0]
        return advanced(guider, sampler, steps=4)

    check(graph, flux)


def test_mask(flux):
    mask = torch.zeros(1, 128, 192)
    mask[:, :, :96] = 1

    def graph(model, positive):
        masked = node("ConditioningSetMask")(conditioning=positive, mask=mask, set_cond_area="default", strength=1.0)[0]
        return sample(model, masked + make_conditioning(3))

    check(graph, flux)


def test_area(flux):
    def graph(model, positive):
        return sample(
            model,
            node("ConditioningSetArea")(conditioning=positive, width=96, height=64, x=32, y=16, strength=1.0)[0]
            + make_conditioning(3),
        )

    check(graph, flux)


def test_reference_latent_before_is_refused(flux):
    positive = nodes_edit_model.ReferenceLatent.execute(make_conditioning(), {"samples": empty_latent(8, 8)}).result[0]
    with pytest.raises(ValueError, match="already carries 1 reference latents"):
        apply_dreamo(flux, positive, make_chain(1))


def test_reference_latent_after_is_refused(flux):
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(1))
    positive = nodes_edit_model.ReferenceLatent.execute(positive, {"samples": empty_latent(8, 8)}).result[0]
    with pytest.raises(ValueError, match="carries 2 reference latents but DreamO Apply put 1"):
        sample(patched, positive)


def test_applying_twice_is_refused(flux):
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(1))
    with pytest.raises(ValueError, match="chain all references in front of one DreamO Apply"):
        apply_dreamo(patched, positive, make_chain(1))


def test_image_to_image(flux):
    start = torch.randn(1, 16, 16, 24, generator=torch.Generator().manual_seed(2))
    check(lambda model, positive: sample(model, positive, latent=start, denoise=0.5, steps=4), flux)


def test_inpaint_model_conditioning(flux, vae):
    pixels, mask = torch.rand(1, 128, 192, 3), torch.zeros(1, 128, 192)
    mask[:, 40:90, 50:120] = 1

    def graph(model, positive):
        positive, negative, latent = node("InpaintModelConditioning")(
            positive=positive, negative=make_conditioning(99), pixels=pixels, vae=vae, mask=mask, noise_mask=True
        )
        return sample(model, positive, negative, latent["samples"], noise_mask=latent["noise_mask"], steps=3)

    check(graph, flux)


def test_latent_noise_mask(flux):
    start = torch.randn(1, 16, 16, 24, generator=torch.Generator().manual_seed(2))
    mask = torch.zeros(1, 1, 128, 192)
    mask[..., 96:] = 1

    def graph(model, positive):
        result = sample(model, positive, latent=start, noise_mask=mask, denoise=0.7)
        # What is not masked stays.
        assert torch.allclose(result[..., :12], start[..., :12], atol=1e-4)
        return result

    check(graph, flux)


def test_latent_upscale_and_second_pass(flux):
    def graph(model, positive):
        first = sample(model, positive, latent=empty_latent(8, 12), steps=2)
        larger = node("LatentUpscale")(
            samples={"samples": first}, upscale_method="bislerp", width=192, height=128, crop="disabled"
        )[0]
        return sample(model, positive, latent=larger["samples"], denoise=0.5, steps=4)

    check(graph, flux)


def test_tiled_second_pass(flux):
    """Tile by tile with one patched model: each tile has its own size, so nothing may remember the last."""

    def graph(model, positive):
        first = sample(model, positive, steps=2)
        second = first.clone()
        for rows, columns in (
            (slice(0, 16), slice(0, 10)),
            (slice(0, 9), slice(10, 24)),
            (slice(9, 16), slice(10, 24)),
        ):
            second[:, :, rows, columns] = sample(
                model, positive, latent=first[:, :, rows, columns].contiguous(), denoise=0.5, steps=2
            )
        return second

    check(graph, flux)


def test_batch_of_latents(flux):
    batch = check(lambda model, positive: sample(model, positive, latent=empty_latent(batch=3)), flux, batch=3)
    assert (batch[0] - batch[1]).abs().max() > 1e-3


@pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")),
    reason="TorchCompileModel needs a C++ compiler on CPU; install g++ to run this",
)
def test_torch_compile():
    """The compiled model gives what the plain one gives."""
    flux = small_flux(depth=1, depth_single_blocks=1)
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(1, strength=0.7))
    plain = sample(patched, positive, steps=1)
    compiled = TorchCompileModel.execute(patched, "inductor").result[0]
    assert torch.allclose(sample(compiled, positive, steps=1), plain, atol=1e-3)


def test_model_merge(flux):
    other = small_flux(seed=3)
    merged = ModelMergeSimple().merge(flux, other, 0.5)[0]
    result = check(sample, merged)
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(2))
    # Merging after DreamO Apply keeps the patch of the first model.
    assert torch.equal(sample(ModelMergeSimple().merge(patched, other, 0.5)[0], positive), result)


@pytest.mark.parametrize("cache_first", [True, False])
def test_easycache(flux, cache_first):
    cached = lambda model: nodes_easycache.EasyCacheNode.execute(model, 3.0, 0.1, 0.95, False).result[0]  # noqa: E731
    if cache_first:
        result = check(lambda model, positive: sample(model, positive, steps=8, cfg=2.0), cached(flux))
    else:
        result = check(lambda model, positive: sample(cached(model), positive, steps=8, cfg=2.0), flux)
    uncached = sample(*apply_dreamo(flux, make_conditioning(), make_chain(2)), steps=8, cfg=2.0)
    assert not torch.equal(result, uncached)


def test_two_clones_in_turn_and_interleaved(flux):
    """Two applied clones of one model, with embeddings of their own; neither sees the other's."""
    first = apply_dreamo(flux, make_conditioning(0), make_chain(2), make_model(seed=1))
    second = apply_dreamo(flux, make_conditioning(1), (make_reference(6, 4, 7, strength=0.4),), make_model(seed=2))
    runs = [lambda: sample(*first), lambda: sample(*second), lambda: sample(flux, make_conditioning(0))]
    alone = [run() for run in runs]
    for order in ([2, 1, 0], [0, 2, 0, 1], [1, 0, 1, 2]):
        for n in order:
            assert torch.equal(runs[n](), alone[n])
    # Interleaved, a step of one and a step of the other: both end where they end alone.
    stepped = [steps_of(*first, seed=5), steps_of(*second, seed=6)]
    results = [list(run)[-1] for run in (steps_of(*first, seed=5), steps_of(*second, seed=6))]
    for pair in zip(*stepped, strict=True):
        last = pair
    assert all(torch.equal(a, b) for a, b in zip(last, results, strict=True))


def test_other_patches_before_and_after(flux):
    """Someone else prepends text and watches blocks; positions are found afresh either way round."""

    def prepend(args):
        txt, ids = args["txt"], args["txt_ids"]
        return {**args, "txt": torch.cat((txt[:, :2], txt), 1), "txt_ids": torch.cat((ids[:, :2], ids), 1)}

    def other(model):
        model = model.clone()
        model.set_model_post_input_patch(prepend)
        return model

    references = (make_reference(strength=0.5), make_reference(4, 6, 1))
    before, positive = apply_dreamo(other(flux), make_conditioning(), references)
    after = other(apply_dreamo(flux, make_conditioning(), references)[0])
    assert torch.equal(sample(before, positive), sample(after, positive))
    assert not torch.equal(sample(before, positive), sample(*apply_dreamo(flux, make_conditioning(), references)))


def test_dreamo_conditioning_on_negative_too(flux):
    """Wiring the references into both is unusual but defined: both passes have them."""
    patched, positive = apply_dreamo(flux, make_conditioning(0), make_chain(1))
    _, negative = apply_dreamo(flux, make_conditioning(1), make_chain(1))
    recorded, calls = record(patched)
    assert torch.isfinite(sample(recorded, positive, negative, cfg=2.0, steps=1)).all()
    assert [len(c.ref_latents) for c in calls] == [1]
    assert calls[0].x.shape[0] == 2


def test_inputs_are_left_as_they_were(flux):
    positive, references, embeddings = make_conditioning(), make_chain(2), make_embeddings()
    before = {key: value.clone() if torch.is_tensor(value) else value for key, value in positive[0][1].items()}
    wrappers, options = {k: dict(v) for k, v in flux.wrappers.items()}, str(flux.model_options)
    apply_dreamo(flux, positive, references)
    assert positive[0][1].keys() == before.keys()
    assert flux.wrappers == wrappers and str(flux.model_options) == options
    assert torch.equal(embeddings.task, make_embeddings().task)

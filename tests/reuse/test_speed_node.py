"""DreamO Speed as a user meets it, its promises, and the models it has to work with."""

import dataclasses
import re

import comfy.ops
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers import set_torch_compile_wrapper
from dreamo_routed.dreamo_core.host.reuse import shape_of, with_policy
from dreamo_routed.dreamo_core.reuse import cost
from dreamo_routed.dreamo_core.reuse.policy import PRESETS, ReusePolicy
from dreamo_routed.dreamo_core.run.keys import POLICY_KEY
from dreamo_routed.minidreamo.host import small_models
from dreamo_routed.nodes.speed import DreamOSpeed
from oracles.pruning import masked_reference, token_mask
from other_models import small_chroma
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
from torch.utils.flop_counter import FlopCounterMode

ADVANCED = dataclasses.asdict(PRESETS["balanced"]) | {"refresh": "every n steps", "interval": 3, "store": "fp8"}


@pytest.fixture(scope="module")
def flux():
    return small_flux()


def speed(model, preset="balanced", low_memory=False, **inputs):
    advanced = {key: value for key, value in ADVANCED.items() if key != "low_memory"}
    return DreamOSpeed.execute(model, preset, low_memory, **{**advanced, **inputs}).result


def settings_of(model):
    return model.model_options["transformer_options"][POLICY_KEY]


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("low_memory", [False, True])
def test_presets_ignore_the_advanced_settings(flux, name, low_memory):
    patched, _ = speed(flux, name, low_memory)
    assert settings_of(patched) == dataclasses.replace(PRESETS[name], low_memory=low_memory)


def test_custom_takes_them(flux):
    assert settings_of(speed(flux, "custom")[0]) == ReusePolicy(**ADVANCED)


def test_the_model_given_is_left_alone(flux):
    options, wrappers = str(flux.model_options), {k: dict(v) for k, v in flux.wrappers.items()}
    speed(flux)
    assert str(flux.model_options) == options and flux.wrappers == wrappers


def test_other_models_are_refused_by_name():
    with pytest.raises(ValueError, match="need a FLUX.1 or FLUX.2 model, got Chroma"):
        speed(small_chroma())


def test_the_report_says_what_the_chain_costs(flux):
    references = (masked_reference(token_mask(32, 32, 0.3)), make_reference(64, 64))
    patched, report = speed(flux, "balanced", references=references, width=1024, height=1024, steps=12)
    tokens = int(re.match(r"(\d+) reference tokens beside 4608", report).group(1))
    assert 1024 < tokens < 2048
    assert "2 of them with the references" in report and "MiB on the device" in report
    assert "Connect the chain" in speed(flux)[1]
    exact = speed(flux, "exact", references=references)[1]
    assert "reuses" not in exact and exact.startswith("2048 reference tokens")


def test_the_tooltip_gives_the_cost_models_figures():
    (preset,) = [i for i in DreamOSpeed.define_schema().inputs if i.id == "preset"]
    sigmas = [1 - n / 12 for n in range(13)]
    for name, settings in PRESETS.items():
        references = 3 * 1024 // (2 if settings.prune else 1)
        tokens = cost.Tokens(512, 4096, references)
        expected = cost.run_ratio(cost.FLUX_DEV, tokens, 12, cost.refreshes(settings, sigmas))
        assert f"{name}: {expected:.2f}" in preset.tooltip
        assert name == "exact" or expected <= 1.15


def test_every_input_has_a_tooltip():
    assert all(i.tooltip for i in DreamOSpeed.define_schema().inputs)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_run(flux, name):
    chain = tuple(masked_reference(token_mask(6, 6, 0.3, n), n) for n in range(3))
    patched, positive = apply_dreamo(flux, make_conditioning(), chain)
    full = sample(patched, positive, steps=6)
    latent = sample(speed(patched, name)[0], positive, steps=6)
    without = sample(patched, make_conditioning(), steps=6)
    error, effect = (latent - full).norm(), (without - full).norm()
    assert torch.equal(latent, full) if name == "exact" else 0 < error < effect


@pytest.mark.parametrize("strength", [1.0, 0.5])
@pytest.mark.parametrize("settings", [ReusePolicy(refresh="never"), ReusePolicy(refresh="never", prune=True)])
def test_low_memory_is_the_same_bits(flux, settings, strength):
    chain = tuple(masked_reference(token_mask(4, 6, 0.5, n), n, strength=strength) for n in range(2))
    patched, positive = apply_dreamo(flux, make_conditioning(), chain)
    results = [
        sample(with_policy(patched, dataclasses.replace(settings, low_memory=low)), positive, steps=4)
        for low in (False, True)
    ]
    assert torch.equal(*results)


def test_fp8_store_is_near(flux):
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(2))
    full = sample(patched, positive, steps=4)
    kept, kept_in_fp8 = (
        sample(with_policy(patched, ReusePolicy(refresh="never", store=s)), positive, steps=4)
        for s in ("as computed", "fp8")
    )
    assert 0 < (kept_in_fp8 - kept).norm() < 0.3 * (kept - full).norm()


def test_fp8_weights():
    """Weights in fp8, computed in bf16, as the host loads them with weight_dtype fp8_e4m3fn."""
    model = small_models.make_flux(small_models.FLUX_CONFIG, torch.float8_e4m3fn, torch.bfloat16)
    small = small_flux().model.diffusion_model.state_dict()
    model.diffusion_model.load_state_dict({key: value.to(torch.float8_e4m3fn) for key, value in small.items()})
    flux = comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(2))
    full = sample(patched, positive, steps=3)
    always = ReusePolicy(refresh="drift", drift=0.0)
    assert torch.equal(sample(with_policy(patched, always), positive, steps=3), full)
    fast, calls = record(with_policy(patched, PRESETS["fast"]))
    latent = sample(fast, positive, steps=3)
    assert torch.isfinite(latent).all() and (latent - full).norm() < 0.5 * full.norm()
    assert [bool(c.ref_latents) for c in calls] == [True, False, False]


@pytest.mark.parametrize("strength, compile_first", [(1.0, True), (0.5, False)])
def test_torch_compile(strength, compile_first):
    """Compiled with any backend: the same result, and nothing is compiled anew after both kinds of step were seen."""
    import torch._dynamo
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter = CompileCounter()

    def compiled(model):
        model = model.clone()
        set_torch_compile_wrapper(model=model, backend=counter)
        return model

    flux = small_flux(depth=1, depth_single_blocks=1)
    settings = ReusePolicy(refresh="every n steps", interval=2)
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(2, strength=strength))
    expected = sample(with_policy(patched, settings), positive, steps=4)
    if compile_first:
        patched, _ = apply_dreamo(compiled(flux), make_conditioning(), make_chain(2, strength=strength))
        model = with_policy(patched, settings)
    else:
        model = compiled(with_policy(patched, settings))
    assert torch.allclose(sample(model, positive, steps=4), expected, atol=1e-4)
    frames = counter.frame_count
    assert frames > 0
    sample(model, positive, steps=4, seed=2)
    assert counter.frame_count == frames
    torch._dynamo.reset()


def flops_of(flux, positive, settings, image, steps):
    """Floating-point operations of each model call, counted as they run."""
    counted = []

    def wrapper(executor, *args, **kwargs):
        with FlopCounterMode(display=False) as counter:
            out = executor(*args, **kwargs)
        counted.append(counter.get_total_flops())
        return out

    model = with_policy(flux, settings)
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "count", wrapper)
    sample(model, positive, steps=steps, latent=empty_latent(*image))
    return counted


@pytest.mark.parametrize("prune", [False, True])
def test_the_cost_model_agrees_with_counted_operations(monkeypatch, prune):
    """Against every matrix product that the host's model runs, within what the model leaves out (1.5 %)."""
    import comfy.ldm.flux.math
    import comfy.ldm.modules.attention as host

    monkeypatch.setattr(comfy.ldm.flux.math, "optimized_attention", host.attention_basic)
    flux = small_flux(hidden_size=256, axes_dim=[16, 24, 24])
    masks = [torch.arange(64).reshape(8, 8) < 32] * 3
    chain = tuple(masked_reference(mask, n) for n, mask in enumerate(masks))
    from support import make_model

    text = make_conditioning(tokens=32)
    patched, positive = apply_dreamo(flux, text, chain, make_model(256))
    settings = ReusePolicy(refresh="never", prune=prune, margin=0)
    (plain, *_), (refresh, reuse) = (flops_of(patched, cond, settings, (32, 32), steps=2) for cond in (text, positive))
    tokens = cost.Tokens(32, 256, 96 if prune else 192)
    shape = shape_of(flux)
    assert shape == cost.ModelShape(256, 4, 4.0, 6)
    assert refresh / plain == pytest.approx(cost.refresh_ratio(shape, tokens), rel=0.015)
    assert reuse / plain == pytest.approx(cost.reuse_ratio(shape, tokens), rel=0.015)
    assert plain / 2 == pytest.approx(cost.step_macs(shape, 288, 288), rel=0.05)


def test_the_cost_model_at_full_size():
    """The figures of the design, per token 6.45 G in linear layers and 0.35 G a thousand keys."""
    assert cost.step_macs(cost.FLUX_DEV, 1, 0) == pytest.approx(6.45e9, rel=1e-2)
    assert cost.step_macs(cost.FLUX_DEV, 1, 1000) - cost.step_macs(cost.FLUX_DEV, 1, 0) == pytest.approx(
        0.35e9, rel=1e-2
    )
    whole = cost.Tokens(512, 4096, 3072)
    assert cost.refresh_ratio(cost.FLUX_DEV, whole) == pytest.approx(1.89, abs=0.01)
    assert cost.reuse_ratio(cost.FLUX_DEV, whole) == pytest.approx(1.13, abs=0.01)
    assert cost.store_bytes(cost.FLUX_DEV, 3072, 2) / 2**30 == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize(
    "settings, expected",
    [
        (ReusePolicy(), 12),
        (ReusePolicy(refresh="every n steps", interval=1), 12),
        (ReusePolicy(refresh="every n steps", interval=5), 3),
        (ReusePolicy(refresh="sigma distance", sigma_distance=0.3), None),
        (ReusePolicy(refresh="never"), 1),
    ],
)
def test_the_expected_number_of_refreshes_is_what_happens(flux, settings, expected):
    import comfy.samplers

    patched, positive = apply_dreamo(flux, make_conditioning(), (make_reference(4, 4),))
    patched, calls = record(with_policy(patched, settings))
    sample(patched, positive, steps=12, latent=empty_latent(4, 4))
    sigmas = comfy.samplers.calculate_sigmas(flux.get_model_object("model_sampling"), "simple", 12).tolist()
    assert cost.refreshes(settings, sigmas) == sum(bool(c.ref_latents) for c in calls)
    assert expected in (None, cost.refreshes(settings, sigmas))

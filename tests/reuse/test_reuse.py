"""Keys and values kept from step to step: exact where they must be, and a refresh whenever anything differs."""

import math

import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from dreamo_routed.dreamo_core.host.reuse import with_policy
from dreamo_routed.dreamo_core.reuse.cache import features_of
from dreamo_routed.dreamo_core.reuse.policy import ReusePolicy
from dreamo_routed.dreamo_core.run.keys import RUN_KEY
from oracles.reuse import capture_keys, in_sequence, slow_reuse
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

EVERY_CALL = ReusePolicy(refresh="sigma distance", sigma_distance=0.0)
NEVER = ReusePolicy(refresh="never")


@pytest.fixture(scope="module")
def flux():
    return small_flux()


def run(flux, settings, references=None, positive=None, **options):
    """Sample with these settings; the latent and which model calls of the positive pass ran the references."""
    references = make_chain(3) if references is None else references
    patched, positive = apply_dreamo(flux, positive or make_conditioning(), references)
    patched, calls = record(with_policy(patched, settings) if settings else patched)
    return sample(patched, positive, **options), in_sequence(calls)


@pytest.mark.parametrize("strength", [1.0, 0.5])
@pytest.mark.parametrize(
    "dtype, sampler",
    [(torch.float32, "euler"), (torch.float32, "heun"), (torch.float32, "uni_pc"), (torch.bfloat16, "euler")],
)
def test_refreshing_every_step_is_full_references_bit_for_bit(dtype, sampler, strength):
    flux, chain = small_flux(dtype=dtype), make_chain(3, strength=strength)
    full, calls = run(flux, None, chain, sampler=sampler, steps=4, cfg=2.0)
    for settings in (
        EVERY_CALL,
        ReusePolicy(refresh="drift", drift=0.0),
        ReusePolicy(refresh="every n steps", interval=1),
        ReusePolicy(),
        ReusePolicy(prune=True),
    ):
        latent, ours = run(flux, settings, chain, sampler=sampler, steps=4, cfg=2.0)
        assert torch.equal(latent, full) and ours == calls


def model_calls(patched, positive, inputs, latent=None):
    """Call the model inside a sampling run with these (x, sigma), one after the other; its predictions."""
    outputs = []

    def sampler_function(model, noise, sigmas, extra_args, **_):
        for x, sigma in inputs:
            outputs.append(model(x, sigma * x.new_ones(x.shape[0]), **extra_args))
        return noise

    guider = comfy.samplers.CFGGuider(patched)
    guider.set_conds(positive, make_conditioning(99))
    latent = empty_latent() if latent is None else latent
    sampler = comfy.samplers.KSAMPLER(
        lambda model, x, sigmas, extra_args, callback, disable: sampler_function(model, x, sigmas, extra_args)
    )
    guider.sample(torch.zeros_like(latent), latent, sampler, torch.tensor([1.0, 0.5, 0.0]), seed=1)
    return outputs


@pytest.mark.parametrize("strengths", [(1.0, 1.0), (0.4, 1.6)])
@pytest.mark.parametrize("batch", [1, 3])
def test_reuse_at_the_same_input_is_the_full_sequence(flux, strengths, batch):
    """Image and text tokens that attend to the very keys of this step cannot tell that their owners did not run."""
    references = tuple(make_reference(8, 8 - 2 * n, n, strength=s) for n, s in enumerate(strengths))
    patched, positive = apply_dreamo(flux, make_conditioning(), references)
    patched, calls = record(with_policy(patched, NEVER))
    x = torch.randn(batch, 16, 16, 24, generator=torch.Generator().manual_seed(3))
    first, second = model_calls(patched, positive, [(x, 0.8), (x, 0.8)], empty_latent(batch=batch))
    assert in_sequence(calls) == [True, False]
    assert (first - second).abs().max() < 1e-5
    moved = x + torch.randn(x.shape, generator=torch.Generator().manual_seed(4))
    assert (model_calls(patched, positive, [(x, 0.8), (moved, 0.8)])[1] - first).abs().max() > 1e-2


def test_a_reuse_step_equals_the_slow_twin(flux):
    references = make_chain(2)
    patched, positive = apply_dreamo(flux, make_conditioning(), references)
    patched, calls = record(with_policy(patched, NEVER))
    sample(patched, positive, steps=3)
    kept = capture_keys(flux, calls[0], [(r.latent - 0.1159) * 0.3611 for r in references])
    for call in calls[1:]:
        assert (slow_reuse(flux, call, kept) - call.output).abs().max() < 1e-5


def sigmas_of(flux, steps):
    return comfy.samplers.calculate_sigmas(flux.get_model_object("model_sampling"), "simple", steps).tolist()


@pytest.mark.parametrize("interval", [2, 3, 5])
def test_every_n_steps(flux, interval):
    _, calls = run(flux, ReusePolicy(refresh="every n steps", interval=interval), steps=7)
    assert calls == [n % interval == 0 for n in range(7)]


@pytest.mark.parametrize("sampler, evaluations", [("heun", 2), ("dpmpp_2s_ancestral", 2), ("uni_pc", 1)])
def test_steps_are_counted_by_noise_level_and_not_by_calls(flux, sampler, evaluations):
    latent, calls = run(flux, ReusePolicy(refresh="every n steps", interval=3), sampler=sampler, steps=6)
    assert torch.isfinite(latent).all() and len(calls) > 6 * evaluations - 2
    assert sum(calls) == 2


def test_sigma_distance(flux):
    _, calls = run(flux, ReusePolicy(refresh="sigma distance", sigma_distance=0.25), steps=8)
    expected, last = [], math.inf
    for sigma in sigmas_of(flux, 8)[:-1]:
        expected.append(abs(last - sigma) >= 0.25)
        last = sigma if expected[-1] else last
    assert calls == expected and 1 < sum(calls) < 8


def test_never(flux):
    assert run(flux, NEVER, steps=6)[1] == [True] + [False] * 5


def test_drift_refreshes_between_never_and_always(flux):
    counts = [sum(run(flux, ReusePolicy(refresh="drift", drift=d), steps=10)[1]) for d in (0.0, 0.1, 0.3, 1e6)]
    assert counts[0] == 10 and counts[-1] == 1
    assert counts == sorted(counts, reverse=True) and len(set(counts)) > 2


def test_drift_is_the_relative_change_of_what_the_first_block_sees(flux):
    """The two sums give what the features themselves give."""
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randn(2, 40, 128, generator=generator)
    modulations = [tuple(torch.randn(2, 128, generator=generator) * 0.3 for _ in range(2)) for _ in range(2)]
    (scale, shift), moved = modulations
    norm = torch.nn.LayerNorm(128, eps=1e-6, elementwise_affine=False)(tokens)
    before, after = (norm * (1 + s[:, None]) + b[:, None] for s, b in modulations)
    slow = [((a - b).norm() / b.norm()).item() for a, b in zip(after, before, strict=True)]
    assert features_of(tokens, scale, shift).drift(*moved) == pytest.approx(max(slow), rel=1e-5)


def test_drift_reads_the_models_own_first_block(flux):
    """Seen from inside: the input of the first block's attention moves as far as the policy says."""
    seen, drifts = [], []
    first = flux.model.diffusion_model.double_blocks[0].img_attn.qkv
    handle = first.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].clone()))
    try:
        patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(1))
        patched = with_policy(patched, ReusePolicy(refresh="drift", drift=0.0))
        watched = patched.clone()

        def watch(executor, *args, **kwargs):
            options = args[-1]
            cache = options[RUN_KEY].part("reuse", lambda: None)
            (entry,) = cache.entries()
            from dreamo_routed.dreamo_core.host.flux import check_family, first_modulation

            model = flux.model
            if entry.features is not None:
                moved = first_modulation(model, check_family(flux), args[1], args[3], args[4])
                drifts.append(entry.features.drift(*moved))
            return executor(*args, **kwargs)

        watched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "watch", watch)
        sample(watched, positive, steps=4)
    finally:
        handle.remove()
    references = [s[:, 96:] for s in seen]
    slow = [((b - a).norm() / a.norm()).item() for a, b in zip(references, references[1:], strict=False)]
    assert drifts == pytest.approx(slow, rel=1e-4)

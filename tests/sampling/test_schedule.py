"""The released schedules on the host's model, and what a range of true guidance counts."""

import comfy.samplers
import numpy as np
import pytest
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingFlux
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from dreamo_routed.dreamo_core.host.flux import with_cfg_range
from dreamo_routed.dreamo_core.sampling.cfg_range import CfgRange, step_of
from dreamo_routed.dreamo_core.sampling.schedule import dreamo_shift, uxo_shift
from dreamo_routed.nodes.apply import DreamOApply
from dreamo_routed.nodes.guidance import DreamOTrueCFGRange
from dreamo_routed.nodes.routed_sampler import DreamORoutedSampler
from support import apply_dreamo, empty_latent, make_chain, make_conditioning, make_model, record, sample, small_flux

SIZES = [(512, 512), (768, 768), (768, 1024), (1024, 1024), (1152, 896)]
STEPS = [1, 4, 8, 12, 16, 20, 25, 28, 30, 50]


@pytest.fixture(scope="module")
def flux():
    return small_flux(depth=1, depth_single_blocks=1)


def sigmas_of(model, steps):
    sampling = model.get_model_object("model_sampling")
    return comfy.samplers.calculate_sigmas(sampling, "simple", steps)


def latent_of(width, height):
    return {"samples": torch.zeros(1, 16, height // 8, width // 8)}


def apply(model, dreamo_model, **inputs):
    return DreamOApply.execute(model, make_conditioning(), make_chain(1), dreamo_model, **inputs)


def note_of(output):
    return output.ui.as_dict()["text"][0]


@pytest.mark.parametrize("size", SIZES)
def test_dreamo_samples_at_the_noise_levels_of_diffusers(flux, size):
    output = apply(flux, make_model(), latent=latent_of(*size), schedule="as released")
    mu = calculate_shift(size[0] // 16 * (size[1] // 16), 256, 4096, 0.5, 1.15)
    assert dreamo_shift(size[1] // 8, size[0] // 8) == pytest.approx(mu, abs=1e-12)
    for steps in STEPS:
        scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
        assert (sigmas_of(output.result[0], steps) - scheduler.sigmas).abs().max() < 1e-6
    assert f"shift {mu:.4g} for {size[0]} × {size[1]}, as DreamO" in note_of(output)


@pytest.mark.parametrize(("size", "mu"), [((512, 512), 0.4594), ((768, 768), 0.4628), ((1024, 1024), 0.4675)])
def test_uno_and_uso_have_their_own(flux, size, mu):
    output = apply(flux, None, latent=latent_of(*size), schedule="as released")
    assert uxo_shift(size[1] // 8, size[0] // 8) == pytest.approx(mu, abs=1e-4)
    # As their `get_schedule` has it: a straight line in t, shifted.
    t = torch.linspace(1, 0, 26, dtype=torch.float64)[:-1]
    expected = np.exp(mu) / (np.exp(mu) + 1 / t - 1)
    assert (sigmas_of(output.result[0], 25)[:-1] - expected).abs().max() < 1e-4
    assert "UNO and USO" in note_of(output)


def test_nothing_is_set_where_there_is_nothing_to_go_by(flux):
    plain = sigmas_of(flux, 12)
    absent = apply(flux, make_model())
    assert torch.equal(sigmas_of(absent.result[0], 12), plain) and note_of(absent) == ""
    off = apply(flux, make_model(), latent=latent_of(768, 768), schedule="the model's own")
    assert torch.equal(sigmas_of(off.result[0], 12), plain) and note_of(off) == ""
    lonely = apply(flux, make_model(), schedule="as released")
    assert torch.equal(sigmas_of(lonely.result[0], 12), plain) and "Connect the empty latent" in note_of(lonely)
    with pytest.raises(ValueError, match="schedule must be one of as released, the model's own; got 'karras'"):
        apply(flux, make_model(), schedule="karras")


def test_a_schedule_of_the_users_own_stays_and_is_named(flux):
    (own,) = ModelSamplingFlux().patch(flux, 0.9, 0.4, 640, 640)
    output = apply(own, make_model(), latent=latent_of(768, 768), schedule="as released")
    assert torch.equal(sigmas_of(output.result[0], 12), sigmas_of(own, 12))
    assert "ModelSamplingFlux) has put on the model was kept" in note_of(output)
    # Ours gives way to theirs behind it, and to ours for another size.
    first = apply(flux, make_model(), latent=latent_of(768, 768), schedule="as released").result[0]
    assert torch.equal(sigmas_of(ModelSamplingFlux().patch(first, 0.9, 0.4, 640, 640)[0], 12), sigmas_of(own, 12))
    again = apply(first, make_model(), latent=latent_of(1024, 1024), schedule="as released").result[0]
    assert (sigmas_of(again, 20) - sigmas_of(flux, 20)).abs().max() < 1e-6
    assert torch.equal(sigmas_of(flux, 12), sigmas_of(small_flux(depth=1, depth_single_blocks=1), 12))


def test_the_routed_sampler_sets_it_for_references_of_its_own(flux):
    settings = {"seed": 1, "steps": 4, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}

    def run(model, positive, **inputs):
        result = DreamORoutedSampler.execute(
            model, positive, make_conditioning(99), {"samples": empty_latent()}, False, **inputs, **settings
        ).result
        return result[0]["samples"], result[3]

    given = {"references": make_chain(1), "dreamo_model": make_model()}
    released, _ = run(flux, make_conditioning(), schedule="as released", **given)
    model, positive = DreamOApply.execute(
        flux, make_conditioning(), make_chain(1), make_model(), {"samples": empty_latent()}, "as released"
    ).result
    assert torch.equal(released, run(model, positive, schedule="as released")[0])
    assert not torch.equal(released, run(flux, make_conditioning(), **given)[0])


def test_steps_are_counted_from_the_run():
    sigmas = torch.tensor([1.0, 0.8, 0.5, 0.2, 0.0])
    assert [step_of(float(s), sigmas) for s in sigmas[:-1]] == [0, 1, 2, 3]
    # Between two noise levels, as samplers of second order look; and the rounding of another dtype.
    assert step_of(0.65, sigmas) == 1 and step_of(float(torch.tensor(0.5).bfloat16()), sigmas) == 2
    assert step_of(0.79995, sigmas) == 1 and step_of(1.0, sigmas) == 0


@pytest.mark.parametrize("steps", [3, 7, 12])
def test_a_range_in_steps_begins_and_ends_where_it_says(flux, steps):
    for start, end in [(0, 1), (1, steps), (1, 2), (0, 0), (steps - 1, steps), (0, 10000)]:
        ranged = DreamOTrueCFGRange.execute(flux, 0.0, 1.0, "steps", start, end).result[0]
        patched, positive = apply_dreamo(ranged, make_conditioning(), make_chain(1))
        recorded, calls = record(patched)
        sample(recorded, positive, cfg=2.0, steps=steps)
        levels = [c.timestep.item() for c in calls if c.ref_latents]
        negative = [levels.index(c.timestep.item()) for c in calls if not c.ref_latents]
        assert negative == [n for n in range(steps) if start <= n < end]


def test_percentages_of_half_steps_hit_every_range(flux):
    """What the tooltip says: (s − ½)/n for step s of n is never a step off, at any shift."""
    for shift_of in ((512, 512), (1024, 1024)):
        sampling = apply(flux, make_model(), latent=latent_of(*shift_of), schedule="as released").result[0]
        sampling = sampling.get_model_object("model_sampling")
        for steps in (4, 12, 25):
            levels = comfy.samplers.calculate_sigmas(sampling, "simple", steps)[:-1].tolist()
            for start in range(1, steps + 1):
                for end in range(start, steps + 1):
                    wanted = CfgRange((start - 0.5) / steps, (end - 0.5) / steps)
                    inside = [n for n, s in enumerate(levels) if wanted.has(s, sampling.percent_to_sigma, None)]
                    assert inside == list(range(start, end))


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (CfgRange(0.6, 0.4), "start_percent must not be above end_percent"),
        (CfgRange(unit="steps", start_step=3, end_step=2), "start_step must not be above end_step .* got 3 to 2"),
        (CfgRange(unit="minutes"), "unit must be one of percent, steps, got 'minutes'"),
    ],
)
def test_bad_ranges_are_refused(flux, wanted, message):
    with pytest.raises(ValueError, match=message):
        with_cfg_range(flux, wanted)


def test_the_noise_row_without_references(flux):
    """As the plain model by default; as released it stays, whole, with any number of references."""
    plain = sample(flux, make_conditioning())
    run = lambda chain, **inputs: sample(  # noqa: E731
        *DreamOApply.execute(flux, make_conditioning(), chain, make_model(), **inputs).result
    )
    released = {"without_references": "as released"}
    assert torch.equal(run(()), plain)
    assert torch.equal(run(make_chain(1, strength=0.0)), plain)
    always = run((), **released)
    assert (always - plain).abs().max() > 1e-2
    assert torch.equal(run(make_chain(2, strength=0.0), **released), always)
    # A whole reference has the whole row either way; half of one has half of it.
    assert torch.equal(run(make_chain(1), **released), run(make_chain(1)))
    assert not torch.equal(run(make_chain(1, strength=0.5), **released), run(make_chain(1, strength=0.5)))
    # Without a DreamO file there is no row.
    bare = DreamOApply.execute(flux, make_conditioning(), (), None, **released).result
    assert torch.equal(sample(*bare), plain)
    with pytest.raises(ValueError, match="without_references must be one of"):
        run((), without_references="maybe")


def test_the_noise_row_is_the_second_task_row(flux):
    """Against the model itself with the row added by hand after its input projection."""
    dreamo_model = make_model()
    flow = flux.model.diffusion_model
    model, positive = DreamOApply.execute(
        flux, make_conditioning(), (), dreamo_model, without_references="as released"
    ).result
    ours = sample(model, positive)
    handle = flow.img_in.register_forward_hook(lambda _m, _i, out: out + dreamo_model.embeddings.task[1])
    try:
        assert torch.equal(ours, sample(flux, make_conditioning()))
    finally:
        handle.remove()

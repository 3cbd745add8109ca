"""Whatever may differ between two calls, kept keys and values are never used for the wrong one, and never outlive
their run."""

import gc
import weakref

import comfy.model_management
import comfy.sampler_helpers
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras import nodes_easycache
from dreamo_routed.dreamo_core.host.reuse import shape_of, with_policy
from dreamo_routed.dreamo_core.reuse.cache import ReferenceCache
from dreamo_routed.dreamo_core.reuse.cost import store_bytes
from dreamo_routed.dreamo_core.reuse.policy import ReusePolicy
from dreamo_routed.dreamo_core.run.keys import RUN_KEY
from dreamo_routed.minidreamo.host import small_models
from failures import Stop, cancelling, failing, failing_block
from oracles.reuse import capture_keys, slow_reuse
from sampler_graphs import advanced, node, steps_of
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
EVERY_2 = ReusePolicy(refresh="every n steps", interval=2)


@pytest.fixture(scope="module")
def flux():
    return small_flux()


def fast(flux, count=2, settings=NEVER, conditioning=0, **values):
    """A model and positive conditioning that reuse; and the recorded calls."""
    patched, positive = apply_dreamo(flux, make_conditioning(conditioning), make_chain(count, **values))
    patched, calls = record(with_policy(patched, settings))
    return patched, positive, calls


def ran(calls):
    return [len(call.ref_latents or []) for call in calls]


def watch_store(model, settings=None):
    """A clone and a list that gets, at each model call, a weak reference to every tensor in the store."""
    seen = []

    def wrapper(executor, *args, **kwargs):
        out = executor(*args, **kwargs)
        cache = args[5][RUN_KEY].part("reuse", lambda: ReferenceCache(NEVER))
        seen.append([weakref.ref(tensor) for entry in cache.entries() for tensor in entry.shelf.tensors()])
        return out

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "watch store", wrapper)
    return model, seen


# --- conditionings, batches, sizes ---------------------------------------------------------------------------------


def test_each_conditioning_keeps_its_own(flux):
    """Combined conditionings with other references: on the second step each attends to its own keys."""
    patched, first, calls = fast(flux)
    others = (make_reference(6, 6, 5),)
    _, second = apply_dreamo(flux, make_conditioning(1), others)
    combined = node("ConditioningCombine")(conditioning_1=first, conditioning_2=second)[0]
    sample(patched, combined, steps=2)
    assert sorted(ran(calls)[:2]) == [1, 2] and ran(calls)[2:] == [0, 0]
    for refreshed in calls[:2]:
        (reused,) = [c for c in calls[2:] if torch.equal(c.context, refreshed.context)]
        chain = make_chain(2) if len(refreshed.ref_latents) == 2 else others
        kept = capture_keys(flux, refreshed, [(r.latent - 0.1159) * 0.3611 for r in chain])
        assert (slow_reuse(flux, reused, kept) - reused.output).abs().max() < 1e-5


def test_two_conditionings_in_one_batch_are_kept_apart(flux):
    """The host runs equal settings as one batch; alone they give the same prediction."""
    combined = node("ConditioningCombine")(conditioning_1=make_conditioning(0), conditioning_2=make_conditioning(1))[0]
    patched, positive = apply_dreamo(flux, combined, make_chain(2))
    patched, calls = record(with_policy(patched, NEVER))
    sample(patched, positive, steps=2)
    assert [call.x.shape[0] for call in calls] == [2, 2] and ran(calls) == [2, 0]
    first, second = calls
    references = make_chain(2)
    latents = [(r.latent - 0.1159) * 0.3611 for r in references]
    for n in range(2):
        one = [
            type(call)(
                call.x[n : n + 1], call.timestep[n : n + 1], call.context[n : n + 1], call.y[n : n + 1],
                call.guidance[:1], None, {}, call.output[n : n + 1],
            )
            for call in (first, second)
        ]  # fmt: skip
        assert (slow_reuse(flux, one[1], capture_keys(flux, one[0], latents)) - one[1].output).abs().max() < 1e-5


@pytest.mark.parametrize("cfg", [1.0, 2.5])
@pytest.mark.parametrize("batch", [1, 3])
def test_cfg_and_batches(flux, cfg, batch):
    patched, positive, calls = fast(flux)
    latent = sample(patched, positive, cfg=cfg, latent=empty_latent(batch=batch), steps=3)
    assert torch.isfinite(latent).all()
    with_references = [c for c in calls if c.ref_latents]
    assert len(with_references) == 1 and with_references[0].x.shape[0] == batch
    # The negative has no references, so it runs as ever.
    assert len(calls) == (6 if cfg > 1 else 3)


def test_another_company_in_the_batch_is_no_refresh(flux, monkeypatch):
    """The host runs equal conditionings together or apart as memory allows, which may change between steps."""
    combined = node("ConditioningCombine")(conditioning_1=make_conditioning(0), conditioning_2=make_conditioning(1))[0]
    patched, positive = apply_dreamo(flux, combined, make_chain(2))
    recorded, calls = record(with_policy(patched, NEVER))
    together = sample(recorded, positive, steps=3)
    recorded, calls = record(with_policy(patched, NEVER))
    # In the second step there is room for one at a time.
    wanted = lambda *args, **kwargs: 10**15 if len(calls) in (1, 2) else 1000  # noqa: E731
    monkeypatch.setattr(flux.model, "memory_required", wanted)
    result = sample(recorded, positive, steps=3)
    assert [call.x.shape[0] for call in calls] == [2, 1, 1, 2] and ran(calls) == [2, 0, 0, 0]
    assert (result - together).abs().max() < 1e-5


def test_references_on_the_negative_too(flux):
    patched, positive, calls = fast(flux)
    _, negative = apply_dreamo(flux, make_conditioning(1), make_chain(2))
    assert torch.isfinite(sample(patched, positive, negative, cfg=2.0, steps=3)).all()
    assert ran(calls) == [2, 0, 0]


def test_another_active_set_is_a_refresh(flux):
    references = (make_reference(8, 8, 0, end_percent=0.4), make_reference(4, 6, 1, start_percent=0.3))
    patched, positive = apply_dreamo(flux, make_conditioning(), references)
    patched, calls = record(with_policy(patched, NEVER))
    full, full_calls = record(apply_dreamo(flux, make_conditioning(), references)[0])
    sample(patched, positive, steps=10)
    sample(full, positive, steps=10)
    expected, last = [], None
    for call in full_calls:
        sizes = [tuple(r.shape) for r in call.ref_latents or []]
        expected.append(len(sizes) if sizes != last else 0)
        last = sizes
    assert ran(calls) == expected and sum(n > 0 for n in expected) == 3


def test_areas_masks_and_ranges(flux):
    patched, positive, calls = fast(flux)
    area = node("ConditioningSetArea")(conditioning=positive, width=96, height=64, x=32, y=16, strength=1.0)[0]
    late = node("ConditioningSetTimestepRange")(conditioning=positive, start=0.5, end=1.0)[0]
    assert torch.isfinite(sample(patched, area + late + make_conditioning(3), steps=6)).all()
    by_size = {}
    for call in calls:
        if call.context.shape[1] and call.y is not None:
            by_size.setdefault(tuple(call.x.shape), []).append(len(call.ref_latents or []))
    # The area and the late conditioning each refresh once, at their own first call.
    assert sum(n == 2 for counts in by_size.values() for n in counts) == 2


def test_second_pass_at_another_size_and_tiles(flux):
    patched, positive, calls = fast(flux)
    first = sample(patched, positive, latent=empty_latent(8, 12), steps=2)
    larger = torch.nn.functional.interpolate(first, scale_factor=2)
    second = sample(patched, positive, latent=larger, denoise=0.5, steps=4)
    for columns in (slice(0, 10), slice(10, 24)):
        sample(patched, positive, latent=second[..., columns].contiguous(), denoise=0.5, steps=2)
    assert ran(calls) == [2, 0] + [2, 0, 0, 0] + [2, 0] * 2


def test_interleaved_runs_share_nothing(flux):
    first, first_positive, _ = fast(flux, conditioning=0)
    second, second_positive, _ = fast(flux, conditioning=1, settings=EVERY_2)
    alone = [list(steps_of(first, first_positive, 5))[-1], list(steps_of(second, second_positive, 6))[-1]]
    for pair in zip(steps_of(first, first_positive, 5), steps_of(second, second_positive, 6), strict=True):
        last = pair
    assert all(torch.equal(a, b) for a, b in zip(last, alone, strict=True))


def test_a_run_inside_a_run(flux):
    """A second model samples in the middle of the first one's run; both end as they end alone."""
    patched, positive, _ = fast(flux)
    other, other_positive, _ = fast(small_flux(seed=3), conditioning=1)
    alone = sample(patched, positive, steps=4), sample(other, other_positive, steps=3)
    inner = []

    def wrapper(executor, *args, **kwargs):
        if not inner:
            inner.append(sample(other, other_positive, steps=3))
        return executor(*args, **kwargs)

    nested = patched.clone()
    nested.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "nested", wrapper)
    assert torch.equal(sample(nested, positive, steps=4), alone[0]) and torch.equal(inner[0], alone[1])


def test_controlnet(flux):
    control_net = small_models.small_controlnet("xlabs")
    hint = torch.rand(1, 128, 192, 3, generator=torch.Generator().manual_seed(1))

    def controlled(model, positive, strength):
        with_control = node("ControlNetApplyAdvanced")(
            positive=positive, negative=make_conditioning(99), control_net=control_net, image=hint,
            strength=strength, start_percent=0.0, end_percent=0.9, vae=None,
        )  # fmt: skip
        return sample(model, *with_control, cfg=1.5, steps=3)

    patched, positive, calls = fast(flux)
    strong = controlled(patched, positive, 0.8)
    assert [n for n in ran(calls) if n] == [2]
    assert torch.isfinite(strong).all() and not torch.equal(strong, sample(patched, positive, cfg=1.5, steps=3))


def test_guidance_pass_with_changed_blocks_keeps_its_own(flux):
    """A pass that skips blocks, as skip-layer guidance does at each step, neither reads nor spoils the usual one's."""

    def skip(args, extra):
        return args

    def skipping(model):
        model = model.clone()
        model.set_model_patch_replace(skip, "dit", "double_block", 1)
        return model

    patched, positive, calls = fast(flux)
    usual = sample(patched, positive, steps=3)

    def post_cfg(args):
        options = comfy.model_patcher.set_model_options_patch_replace(
            args["model_options"].copy(), skip, "dit", "double_block", 1
        )
        comfy.samplers.calc_cond_batch(args["model"], [args["cond"]], args["input"], args["sigma"], options)
        return args["denoised"]

    guided = patched.clone()
    guided.set_model_sampler_post_cfg_function(post_cfg, disable_cfg1_optimization=False)
    calls.clear()
    assert torch.equal(sample(guided, positive, steps=3), usual)
    # One block never shows its keys, so that pass is never complete and runs the whole sequence each time.
    assert ran(calls) == [2, 2, 0, 2, 0, 2]
    calls.clear()
    sample(skipping(patched), positive, steps=3)
    assert ran(calls) == [2, 2, 2]


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "dpmpp_sde", "uni_pc", "heun", "lcm"])
def test_samplers(flux, sampler):
    patched, positive, calls = fast(flux, settings=EVERY_2)
    assert torch.isfinite(sample(patched, positive, sampler=sampler, steps=5)).all()
    assert 2 <= sum(n > 0 for n in ran(calls)) <= 3 < len(calls)


def test_from_image_to_noise(flux):
    """A rising schedule, as when an image is turned back into noise."""
    patched, positive, calls = fast(flux, settings=EVERY_2)
    from comfy_extras import nodes_custom_sampler

    guider = nodes_custom_sampler.BasicGuider.execute(patched, positive).result[0]
    sigmas = torch.linspace(0.05, 0.95, 7)
    noise = nodes_custom_sampler.DisableNoise.execute().result[0]
    euler = nodes_custom_sampler.KSamplerSelect.execute("euler").result[0]
    run = nodes_custom_sampler.SamplerCustomAdvanced.execute
    run(noise, guider, euler, sigmas, {"samples": torch.rand(1, 16, 16, 24)})
    assert ran(calls) == [2, 0, 2, 0, 2, 0]


@pytest.mark.parametrize("cache_first", [True, False])
@pytest.mark.parametrize("settings", [NEVER, EVERY_2], ids=["never", "every 2"])
def test_easycache(flux, cache_first, settings):
    """EasyCache answers some calls without the model; a refresh that did not happen does not count as one."""
    cached = lambda model: nodes_easycache.EasyCacheNode.execute(model, 3.0, 0.1, 0.95, False).result[0]  # noqa: E731
    patched, positive = apply_dreamo(cached(flux) if cache_first else flux, make_conditioning(), make_chain(2))
    patched, calls = record(with_policy(patched, settings))
    patched = patched if cache_first else cached(patched)
    latent = sample(patched, positive, steps=8, cfg=2.0)
    assert torch.isfinite(latent).all()
    uncached, uncached_positive, _ = fast(flux, settings=settings)
    assert not torch.equal(latent, sample(uncached, uncached_positive, steps=8, cfg=2.0))
    assert ran(calls)[0] + ran(calls)[1] == 2 and any(n == 0 for n in ran(calls))


def test_a_skipped_refresh_is_caught_up(flux):
    """Someone answers the third step without the model: the refresh due there happens at the fourth."""
    patched, positive, calls = fast(flux, settings=EVERY_2)
    turn = iter(range(100))

    def skip_third(executor, x, *args, **kwargs):
        return x if next(turn) == 2 else executor(x, *args, **kwargs)

    patched = patched.clone()
    patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "skip", skip_third)
    sample(patched, positive, steps=6)
    # The recorder sits outside: it sees the references handed over at the skipped call too.
    assert ran(calls) == [2, 0, 2, 2, 0, 2]


@pytest.mark.parametrize("order", ["speed first", "apply first"])
def test_order_of_the_nodes(flux, order):
    if order == "speed first":
        patched, positive = apply_dreamo(with_policy(flux, NEVER), make_conditioning(), make_chain(2))
    else:
        patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(2))
        patched = with_policy(patched, NEVER)
    patched, calls = record(patched)
    sample(patched, positive, steps=3)
    assert ran(calls) == [2, 0, 0]


def test_speed_without_apply_changes_nothing(flux):
    assert torch.equal(sample(with_policy(flux, NEVER), make_conditioning()), sample(flux, make_conditioning()))


def test_the_last_speed_node_counts(flux):
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(2))
    exact = with_policy(with_policy(patched, NEVER), ReusePolicy())
    assert torch.equal(sample(exact, positive), sample(patched, positive))
    assert WrappersMP.PREPARE_SAMPLING not in {k for k, v in exact.wrappers.items() if v}


def test_strength_works_on_reuse_steps(flux):
    """References of strength near 0 leave nothing behind on reuse steps either."""
    weak, positive, _ = fast(flux, strength=1e-6)
    plain = sample(flux, make_conditioning(), steps=4)
    strong, strong_positive, _ = fast(flux)
    whole = (sample(strong, strong_positive, steps=4) - plain).norm()
    assert (sample(weak, positive, steps=4) - plain).norm() < 1e-2 * whole


def test_hosts_attention_functions_take_more_keys_than_queries(monkeypatch, flux):
    import comfy.ldm.flux.math
    import comfy.ldm.modules.attention as host

    results = []
    for function in (host.attention_pytorch, host.attention_sub_quad, host.attention_split, host.attention_basic):
        monkeypatch.setattr(comfy.ldm.flux.math, "optimized_attention", function)
        for strength in (1.0, 0.5):
            patched, positive, _ = fast(flux, strength=strength)
            results.append(sample(patched, positive, steps=2))
    for n, latent in enumerate(results):
        assert (latent - results[n % 2]).abs().max() < 1e-4


# --- life of the store ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [NEVER, ReusePolicy(refresh="never", store="fp8"), ReusePolicy(refresh="never", low_memory=True)],
    ids=["as computed", "fp8", "low memory"],
)
@pytest.mark.parametrize(
    "break_it, error",
    [
        (lambda m: m, None),
        (cancelling, comfy.model_management.InterruptProcessingException),
        (lambda m: failing(m, WrappersMP.DIFFUSION_MODEL, Stop(), 2), Stop),
        (lambda m: failing_block(m, torch.OutOfMemoryError("on purpose")), torch.OutOfMemoryError),
    ],
    ids=["success", "cancel", "error", "out of memory in the first refresh"],
)
def test_the_store_is_gone_after_the_run(flux, settings, break_it, error):
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(2))
    watched, seen = watch_store(with_policy(patched, settings))
    run = lambda: sample(break_it(watched), positive, steps=4)  # noqa: E731
    if error is None:
        run()
        assert len(seen) == 4
    else:
        with pytest.raises(error):
            run()
    gc.collect()
    tensors = [ref for call in seen for ref in call]
    assert all(ref() is None for ref in tensors)
    if error is not torch.OutOfMemoryError:
        per_pair = 4 if settings.store == "fp8" else 2
        assert len(seen[0]) == 6 * per_pair
    assert RUN_KEY not in patched.model_options["transformer_options"]


def live():
    """Number of tensors that are alive, and bytes of memory behind them."""
    gc.collect()
    tensors = [o for o in gc.get_objects() if type(o) is torch.Tensor]
    return len(tensors), sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


@pytest.mark.parametrize("low_memory", [False, True])
def test_runs_do_not_grow_memory(low_memory):
    """What is alive between runs stays what it is; a process's peak also moves with every allocator beside ours."""
    flux = small_flux(depth=1, depth_single_blocks=1)
    patched, positive = apply_dreamo(flux, make_conditioning(), (make_reference(32, 32),))
    watched, seen = watch_store(with_policy(patched, ReusePolicy(refresh="never", low_memory=low_memory)))
    counts = []
    for _ in range(5):
        sample(watched, positive, steps=2, latent=empty_latent(8, 8))
        seen.clear()
        counts.append(live())
    assert counts[1:] == [counts[1]] * 4


# --- size, counted and shown ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype, element", [(torch.float32, 4), (torch.bfloat16, 2)])
@pytest.mark.parametrize("store", ["as computed", "fp8"])
def test_the_cost_model_knows_the_size_of_the_store(dtype, element, store, caplog):
    flux = small_flux(dtype=dtype)
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(3))
    patched, _ = watch_store(with_policy(patched, ReusePolicy(refresh="never", store=store)))
    sizes = []

    def measure(executor, *args, **kwargs):
        out = executor(*args, **kwargs)
        sizes.append(args[5][RUN_KEY].part("reuse", lambda: None).nbytes)
        return out

    patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "a measure", measure)
    caplog.set_level("INFO")
    sample(patched, positive, steps=2, latent=empty_latent(batch=2))
    tokens = sum(r.latent.shape[2] * r.latent.shape[3] // 4 for r in make_chain(3))
    assert set(sizes) == {store_bytes(shape_of(flux), tokens, element, store == "fp8", batch=2)}
    assert "references ran in 1 of 2 model calls" in caplog.text


def estimated(monkeypatch, model, positive, batch=1):
    """What the host sets aside for a run, in bytes."""
    asked = []
    load = comfy.model_management.load_models_gpu

    def spy(models, memory_required=0, **kwargs):
        asked.append(memory_required)
        return load(models, memory_required=memory_required, **kwargs)

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", spy)
    sample(model, positive, steps=1, latent=empty_latent(batch=batch))
    return asked[0]


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("store, low_memory", [("as computed", False), ("fp8", False), ("as computed", True)])
def test_the_host_makes_room_for_the_store(flux, monkeypatch, store, low_memory, batch):
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(3))
    without = estimated(monkeypatch, patched, positive, batch)
    settings = ReusePolicy(refresh="never", store=store, low_memory=low_memory)
    extra = estimated(monkeypatch, with_policy(patched, settings), positive, batch) - without
    tokens = sum(r.latent.shape[2] * r.latent.shape[3] // 4 for r in make_chain(3))
    expected = store_bytes(shape_of(flux), tokens, 4, store == "fp8", batch)
    if low_memory:
        expected = expected * 2 // 6
    granule = flux.model.memory_required([1, 1, 1, 1])
    assert expected <= extra <= expected + granule
    assert estimated(monkeypatch, with_policy(patched, ReusePolicy()), positive, batch) == without


def test_advanced_sampler_nodes(flux):
    from comfy_extras import nodes_custom_sampler

    patched, positive, calls = fast(flux)
    guider = nodes_custom_sampler.CFGGuider.execute(patched, positive, make_conditioning(99), 2.0).result[0]
    assert torch.isfinite(advanced(guider, steps=4)).all()
    assert sum(n > 0 for n in ran(calls)) == 1

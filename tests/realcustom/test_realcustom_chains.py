"""RealCustom together with the host's other nodes, on the host's own classes and a small random SDXL."""

import comfy.hooks
import pytest
import realcustom_world as rw
import torch
from comfy_extras import nodes_hooks, nodes_pag, nodes_sag
from comfy_extras.nodes_torch_compile import TorchCompileModel
from dreamo_routed.dreamo_core.host.clip_words import as_spelled, word_positions
from dreamo_routed.dreamo_core.host.routing import add_region, name_words, sample_routed
from dreamo_routed.dreamo_core.realcustom.settings import PREVIOUS_STEP, SOURCES, RealCustomSettings
from dreamo_routed.dreamo_core.routing.regions import make_region
from sampler_graphs import node
from stand_ins import with_tiles
from support import small_flux

SUBJECTS = [rw.subject(("cat",), 0, gamma=0.2), rw.subject(("teapot",), 1, gamma=0.2)]


def applied(**options):
    return rw.attach(SUBJECTS, **options)


def plain(model=None, **options):
    at = rw.world()
    return rw.sample(model or at.model, at.encode(rw.PROMPT), at.encode(rw.NEGATIVE), **options)


def differs(one, other, least=1e-3):
    return torch.isfinite(one).all() and rw.relative(one, other) > least


def recorded(model, positive, negative, **options):
    """The positive's and negative's model calls of one step: list of (cond_or_uncond, batch)."""
    from comfy.patcher_extension import WrappersMP

    calls = []

    def wrapper(executor, x, t, *args, **kwargs):
        calls.append((tuple(kwargs.get("transformer_options", args[-1])["cond_or_uncond"]), len(x)))
        return executor(x, t, *args, **kwargs)

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "count", wrapper)
    rw.sample(model, positive, negative, **options)
    return calls


def test_one_pass_a_step_until_the_stop_and_both_halves_in_one_batch():
    calls = recorded(*applied(), steps=4, size=rw.latent(16, 16))
    # Two of four steps: a pass with the text alone, then both halves together.
    assert [batch for _, batch in calls] == [1, 2, 1, 2, 2, 2]


def test_previous_step_needs_no_pass_and_its_first_step_is_the_texts():
    settings = RealCustomSettings(masks_from=PREVIOUS_STEP)
    assert [batch for _, batch in recorded(*applied(settings=settings))] == [2, 2, 2]
    assert torch.equal(rw.sample(*applied(settings=settings), steps=1), plain(steps=1))
    assert differs(rw.sample(*applied(settings=settings)), plain())


def test_painted_masks_alone_need_no_pass_and_act_in_them_only():
    mask = torch.zeros(1, 64, 64)
    mask[:, :, :32] = 1
    subject = rw.subject(mask=mask)
    assert [batch for _, batch in recorded(*rw.attach([subject]))] == [2, 2, 2]
    painted = rw.sample(*rw.attach([subject]))
    at = rw.world()
    model, positive, negative = rw.attach([rw.subject()])
    by_region = rw.sample(model, add_region(positive, make_region(1, mask, 0, False, False)), negative)
    assert torch.equal(painted, by_region)
    everywhere = rw.sample(*rw.attach([rw.subject(mask=torch.ones(1, 8, 8))]))
    nowhere = rw.sample(*rw.attach([rw.subject(mask=torch.zeros(1, 8, 8))]))
    assert differs(painted, everywhere) and torch.equal(nowhere, plain())
    assert at.model.model_options["transformer_options"] == {}


def test_words_from_the_routing_node_replace_the_subjects():
    at = rw.world()
    named = name_words(at.encode(rw.PROMPT), at.clip, rw.PROMPT, "teapot")
    by_node = rw.sample(*rw.attach([rw.subject(("cat",))], positive=named))
    assert torch.equal(by_node, rw.sample(*rw.attach([rw.subject(("teapot",))])))


def test_the_recorder_and_the_samplers_maps():
    maps = sample_routed(
        *rw.attach(SUBJECTS), {"samples": rw.latent()}, False,
        seed=1, steps=3, cfg=7.5, sampler_name="euler", scheduler="normal",
    )[1]  # fmt: skip
    assert [len(steps) for steps in maps.prompts] == [3]
    seen, masks = maps.last()
    assert seen.shape == masks.shape == (2, 1, 8, 12)
    assert int((masks > 0).sum()) <= 2 * int(0.2 * 96) and not ((masks[0] > 0) & (masks[1] > 0)).any()


def test_controlnet():
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.ops
    from dreamo_routed.minidreamo.host.small_models import randomize
    from dreamo_routed.minidreamo.host.small_sdxl import SDXL_CONFIG

    config = {k: v for k, v in SDXL_CONFIG.items() if k not in ("out_channels", "transformer_depth_output")}
    net = comfy.cldm.cldm.ControlNet(**config, hint_channels=3, operations=comfy.ops.manual_cast, dtype=torch.float32)
    randomize(net, 4)
    net = comfy.controlnet.ControlNet(net, load_device=torch.device("cpu"), manual_cast_dtype=None)
    hint = torch.rand(1, 128, 192, 3)

    def control(positive, negative):
        return node("ControlNetApplyAdvanced")(
            positive=positive, negative=negative, control_net=net, image=hint, strength=0.8, start_percent=0.0,
            end_percent=1.0, vae=None,
        )  # fmt: skip

    at = rw.world()
    controlled = rw.sample(at.model, *control(at.encode(rw.PROMPT), at.encode(rw.NEGATIVE)))
    model, positive, negative = applied()
    after = rw.sample(model, *control(positive, negative))
    assert differs(after, controlled) and differs(after, rw.sample(model, positive, negative))


def other_replace(model, add=0.3):
    """What IPAdapter-like packs put on every cross-attention: one that does not call through anybody else's."""
    from comfy.ldm.modules.attention import optimized_attention
    from dreamo_routed.dreamo_core.host.realcustom import attention_places

    model = model.clone()

    def replace(q, k, v, extra):
        return optimized_attention(q, k, v, extra["n_heads"]) + add * q

    for place in attention_places(model.get_model_object("diffusion_model")):
        # Some name a block, some the layer.
        model.set_model_attn2_replace(replace, *place.key[:2], place.key[2] if place.key[1] % 2 else None)
    return model


def test_attention_replaces_of_others_before_and_after_ours():
    at = rw.world()
    without = rw.sample(other_replace(at.model), at.encode(rw.PROMPT), at.encode(rw.NEGATIVE))
    before = rw.sample(*rw.attach(SUBJECTS, model=other_replace(at.model)))
    model, positive, negative = applied()
    after = rw.sample(other_replace(model), positive, negative)
    assert torch.equal(before, after)
    assert differs(after, without) and differs(after, rw.sample(model, positive, negative))


def test_areas_masks_and_timestep_ranges():
    at = rw.world()
    model, positive, negative = applied()
    for change in (
        lambda c: node("ConditioningSetArea")(conditioning=c, width=96, height=96, x=32, y=16, strength=1.0)[0],
        lambda c: node("ConditioningSetMask")(
            conditioning=c, mask=torch.ones(1, 16, 24), set_cond_area="default", strength=1.0
        )[0],
        lambda c: node("ConditioningSetTimestepRange")(conditioning=c, start=0.0, end=0.6)[0],
    ):
        both = change(positive) + at.encode("a quiet room")
        text = change(at.encode(rw.PROMPT)) + at.encode("a quiet room")
        assert differs(rw.sample(model, both, negative), rw.sample(at.model, text, at.encode(rw.NEGATIVE)))


def test_a_subject_with_a_range_acts_in_it_only():
    late = rw.sample(*rw.attach([rw.subject(start_percent=0.4, end_percent=0.5)]), steps=2)
    assert torch.equal(late, plain(steps=2))
    half = rw.sample(*rw.attach([rw.subject(end_percent=0.5)]), steps=4)
    assert differs(half, plain(steps=4)) and not torch.equal(half, rw.sample(*rw.attach([rw.subject()]), steps=4))


def test_lora_hooks_on_the_conditioning():
    model, positive, negative = applied()
    layer = "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_q"
    draw = lambda *shape: torch.randn(*shape, generator=torch.Generator().manual_seed(6))  # noqa: E731
    lora = {f"{layer}.lora_down.weight": draw(4, 128), f"{layer}.lora_up.weight": draw(128, 4)}
    hooks = comfy.hooks.create_hook_lora(lora, 1.0, 0.0)
    hook = lambda c: nodes_hooks.ConditioningSetProperties().set_properties(c, 1.0, "default", hooks=hooks)[0]  # noqa: E731
    hooked = rw.sample(model, hook(positive), negative)
    at = rw.world()
    assert differs(hooked, rw.sample(at.model, hook(at.encode(rw.PROMPT)), at.encode(rw.NEGATIVE)))
    assert differs(hooked, rw.sample(model, positive, negative), 1e-4)


def test_positive_and_negative_in_separate_calls_give_the_same():
    import comfy.samplers

    model, positive, negative = applied()
    together = rw.sample(model, positive, negative)

    def split(args):
        conds, rest = args["conds"], (args["input"], args["sigma"], args["model_options"])
        return [comfy.samplers.calc_cond_batch(args["model"], [one], *rest)[0] for one in conds]

    apart = model.clone()
    apart.model_options["sampler_calc_cond_batch_function"] = split
    assert rw.relative(rw.sample(apart, positive, negative), together) < 1e-5


OPTIONS = [{"cfg": 1.0}, {"size": rw.latent(16, 16, 3)}, {"sampler": "heun"}, {"sampler": "dpmpp_2m"}]


@pytest.mark.parametrize("options", OPTIONS)
def test_samplers_batches_and_cfg_1(options):
    assert differs(rw.sample(*applied(), **options), plain(**options))


def test_image_to_image_inpaint_and_a_second_pass_of_another_size():
    start = torch.randn(1, 4, 16, 24, generator=torch.Generator().manual_seed(8))
    assert differs(rw.sample(*applied(), size=start, denoise=0.6), plain(size=start, denoise=0.6))
    hole = torch.zeros(1, 16, 24)
    hole[..., 12:] = 1
    inpainted = rw.sample(*applied(), size=start, noise_mask=hole)
    assert differs(inpainted, plain(size=start, noise_mask=hole))
    # What is not painted over stays, but for the sampler's own rounding.
    assert (inpainted - start)[..., :12].abs().max() < 1e-3
    large = torch.nn.functional.interpolate(rw.sample(*applied()), size=(24, 32))
    assert differs(rw.sample(*applied(), size=large, denoise=0.5), plain(size=large, denoise=0.5))


@pytest.mark.parametrize("tile_batch", [1, 2])
def test_tiles(tile_batch):
    at, tiles = rw.world(), [(0, 16), (8, 24)]
    model, positive, negative = applied()
    found = rw.sample(with_tiles(model, tiles, tile_batch), positive, negative)
    assert differs(found, plain(with_tiles(at.model, tiles, tile_batch)))


@pytest.mark.parametrize("source", list(SOURCES))
def test_extra_calls_of_pag_and_sag(source):
    settings = RealCustomSettings(source=SOURCES[source])
    model, positive, negative = applied(settings=settings)
    for make in (
        lambda m: node_v3(nodes_pag.PerturbedAttentionGuidance, m, scale=2.0),
        lambda m: node_v3(nodes_sag.SelfAttentionGuidance, m, scale=0.5, blur_sigma=2.0),
    ):
        found = rw.sample(make(model), positive, negative, size=rw.latent(16, 16))
        assert differs(found, plain(make(rw.world().model), size=rw.latent(16, 16)))


def node_v3(cls, model, **values):
    if hasattr(cls, "execute"):
        return cls.execute(model, **values).result[0]
    return getattr(cls(), cls.FUNCTION)(model, **values)[0]


@pytest.mark.long
def test_torch_compile_runs_our_replacements_as_they_are():
    import torch._dynamo

    model, positive, negative = applied()
    expected = rw.sample(model, positive, negative, steps=1)
    torch._dynamo.reset()
    compiled = node_v3(TorchCompileModel, model, backend="eager")
    assert rw.relative(rw.sample(compiled, positive, negative, steps=1), expected) < 1e-4


def test_two_clones_of_one_model_in_turn():
    one, two = rw.attach([rw.subject()]), rw.attach([rw.subject(("teapot",), 3)])
    first, second = rw.sample(*one), rw.sample(*two)
    assert torch.equal(rw.sample(*one), first) and torch.equal(rw.sample(*two), second)
    assert differs(first, second)


def test_a_failed_run_leaves_nothing():
    before = plain()
    model, positive, negative = applied()

    class Stop(Exception):
        pass

    def stop(args):
        raise Stop

    failing = model.clone()
    failing.set_model_sampler_post_cfg_function(stop)
    with pytest.raises(Stop):
        rw.sample(failing, positive, negative)
    assert "dreamo_run" not in model.model_options["transformer_options"]
    assert torch.equal(plain(), before)
    assert torch.equal(rw.sample(model, positive, negative), rw.sample(*applied()))


# Words


def test_a_word_of_several_tokens_twice_weighted_and_in_the_second_section():
    clip = rw.world().clip
    twice = "a cat and a (cat:1.3)"
    assert len(word_positions(clip, twice, "cat")) == 2
    assert len(word_positions(clip, "an ice-cream cone", "ice-cream")) == 3
    assert as_spelled(clip, "ice-cream") == "ice - cream"
    long = "very " * 90 + "small teapot"
    (at,) = word_positions(clip, long, "teapot")
    assert at > 77
    ((cond, _),) = rw.world().encode(long)
    assert at < cond.shape[1]
    assert differs(rw.sample(*rw.attach([rw.subject(("teapot",))], prompt=long), steps=1), plain(steps=1))
    with pytest.raises(ValueError, match="The prompt has no 'boy'"):
        word_positions(clip, "a cowboy", "boy")


def test_one_picture_with_two_words():
    both = rw.subject(("cat", "teapot"))
    assert differs(rw.sample(*rw.attach([both])), rw.sample(*rw.attach([rw.subject()])))


def test_the_unprojected_pooled_text():
    changed = rw.attach(SUBJECTS, unprojected=True, negative_text=rw.NEGATIVE)
    pooled = lambda conditioning: conditioning[0][1]["pooled_output"]  # noqa: E731
    assert not torch.equal(pooled(changed[1]), pooled(rw.world().encode(rw.PROMPT)))
    assert not torch.equal(pooled(changed[2]), pooled(rw.world().encode(rw.NEGATIVE)))
    with pytest.raises(ValueError, match="negative text"):
        rw.attach(SUBJECTS, unprojected=True)


# Bad input


def test_one_clear_error_each():
    at = rw.world()
    with pytest.raises(ValueError, match="RealCustom needs an SDXL model .* got Flux"):
        rw.attach(SUBJECTS, model=small_flux())
    with pytest.raises(ValueError, match="does not fit this BaseModel"):
        rw.attach(SUBJECTS, model=rw.world("sd15").model)
    with pytest.raises(ValueError, match="The prompt has no 'dog'"):
        rw.attach([rw.subject(("dog",))])
    with pytest.raises(ValueError, match="not the prompt that the conditioning was encoded from"):
        rw.attach(SUBJECTS, positive=at.encode("something else entirely"))
    model, positive, _ = applied()
    with pytest.raises(ValueError, match="already carries subjects"):
        rw.attach(SUBJECTS, positive=positive)
    with pytest.raises(ValueError, match="one picture"):
        rw.Subject(torch.rand(2, 8, 8, 3), ("cat",))
    with pytest.raises(ValueError, match="above 0 and up to 1"):
        rw.subject(gamma=0.0)


def test_kept_keys_and_values_are_counted_in_the_hosts_estimate():
    of = lambda model: model.get_additional_models()[0].model_size()  # noqa: E731
    one, two = rw.attach(SUBJECTS[:1])[0], rw.attach(SUBJECTS)[0]
    low = rw.attach(SUBJECTS, settings=RealCustomSettings(low_memory=True))[0]
    weights = rw.world().realcustom.attention(rw.world().model).model
    rows = sum(pair.to_k.weight.shape[0] + pair.to_v.weight.shape[0] for pair in weights.pairs)
    assert of(two) - of(one) == 729 * rows * 4
    assert of(one) - of(low) == 2 * 729 * rows * 4


@pytest.mark.long
def test_the_shallow_variant():
    at = rw.world(shallow=True)
    assert at.realcustom.tokens(rw.picture()).shape[1] == 2 * 729
    assert differs(rw.sample(*rw.attach([rw.subject()], at), steps=1), plain(steps=1))

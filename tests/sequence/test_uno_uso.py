"""UNO and USO through the nodes: the token layout, and routing, pruning and reuse, against slow second computations."""

import copy

import comfy.ldm.flux.layers as host_layers
import numpy as np
import pytest
import torch
from colour_world import BALANCE, colour_dreamo, colour_flux, painted, solid
from comfy.ldm.flux.math import apply_rope
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_edit_model import ReferenceLatent
from comfy_extras.nodes_flux import FluxKontextMultiReferenceLatentMethod
from comfy_extras.nodes_model_patch import USOStyleReference
from dreamo_routed.dreamo_core.attention.bias import NEVER as NEVER_SEEN
from dreamo_routed.dreamo_core.host.pictures import prepare
from dreamo_routed.dreamo_core.host.reuse import with_policy
from dreamo_routed.dreamo_core.host.routing import add_region, sample_routed, set_words, with_routing
from dreamo_routed.dreamo_core.reuse.policy import PRESETS, ReusePolicy
from dreamo_routed.dreamo_core.routing.regions import make_region
from dreamo_routed.dreamo_core.routing.settings import RoutingSettings
from dreamo_routed.dreamo_core.run.keys import PLACEHOLDERS_KEY
from dreamo_routed.dreamo_core.text.placeholders import PlaceholderPositions
from dreamo_routed.minidreamo.host import small_models
from dreamo_routed.nodes.apply import DreamOApply
from dreamo_routed.nodes.uso_style import DreamOUSOStyle
from oracles.pruning import masked_reference, slow_kept, token_mask
from oracles.reuse import capture_keys, in_sequence, slow_reuse
from oracles.slow import slow_flux, slow_style_tokens
from PIL import Image
from support import empty_latent, make_chain, make_conditioning, make_model, make_reference, record, sample, small_flux

SCALE, SHIFT = 0.3611, 0.1159
STYLE = 192
"""Tokens of one style picture: three layers of SigLIP, 64 tokens each."""

ONCE = ReusePolicy(refresh="never")


@pytest.fixture(scope="module")
def flux():
    return small_flux()


@pytest.fixture(scope="module")
def seen():
    """Two style pictures as the image encoder gives them to USOStyleReference."""
    vision = small_models.small_clip_vision()
    pictures = torch.rand(2, 1, 200, 300, 3, generator=torch.Generator().manual_seed(8))
    return [vision.encode_image(picture, crop=False) for picture in pictures]


@pytest.fixture(scope="module")
def projector():
    return small_models.small_uso_projector(128)


def styled(model, projector, *outputs):
    """The model behind one host node for each style picture."""
    for output in outputs:
        (model,) = USOStyleReference().apply_patch(model, projector, output)
    return model


def style_tokens(projector, *outputs):
    """The tokens in front of the text; each node puts its own before those that are there."""
    return torch.cat([slow_style_tokens(projector.model, output.all_hidden_states) for output in outputs[::-1]], 1)


def applied(model, references, positive=None, dreamo_model=None):
    return DreamOApply.execute(model, positive or make_conditioning(), references, dreamo_model).result


def scaled(references, batch=1):
    return [((r.latent - SHIFT) * SCALE).repeat(batch, 1, 1, 1) for r in references]


def twin(flux, call, references, tables=(None, None), **options):
    batch = call.x.shape[0]
    arguments = (call.x, call.timestep, call.context, call.y, call.guidance.expand(batch), scaled(references, batch))
    return slow_flux(flux.model.diffusion_model, *arguments, *tables, **options)


def seen_by_the_first_block(model, positive, latent):
    """`post_input`'s dict as it is after every patch of the first model call."""
    found = []

    def look(args):
        found.append(dict(args))
        return args

    def wrapper(executor, *args, **kwargs):
        args = list(args)
        (options,) = [n for n, a in enumerate(args) if isinstance(a, dict)]
        patches = args[options].get("patches", {})
        args[options] = {**args[options], "patches": {**patches, "post_input": [*patches.get("post_input", []), look]}}
        return executor(*args, **kwargs)

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "look", wrapper)
    sample(model, positive, steps=1, latent=latent)
    return found[0]


def layout_of_uno(height, width, references, text):
    """Position ids from UNO's rule alone ("UnoPE", arXiv 2504.02160): text at zero, then picture and references, each
    beginning where the rows and the columns of all before it have ended."""
    ids = [(0, 0, 0)] * text
    row = column = 0
    for h, w in [(height, width), *references]:
        for r in range(row, row + h):
            for c in range(column, column + w):
                ids.append((0, r, c))
        row, column = row + h, column + w
    return torch.tensor(ids, dtype=torch.float32)


@pytest.mark.parametrize("dreamo", [None, make_model()], ids=["plain", "DreamO"])
@pytest.mark.parametrize("styles", [0, 1, 2])
@pytest.mark.parametrize("size, sizes", [((16, 24), [(8, 8)]), ((15, 21), [(8, 8), (6, 10), (12, 4)])])
def test_the_layout_is_unos_with_usos_style_tokens_in_front(flux, projector, seen, size, sizes, styles, dreamo):
    references = tuple(make_reference(*s, seed=n) for n, s in enumerate(sizes))
    model, positive = applied(styled(flux, projector, *seen[:styles]), references, dreamo_model=dreamo)
    found = seen_by_the_first_block(model, positive, empty_latent(*size))
    text = 7 + styles * STYLE
    assert found["txt"].shape[1] == found["txt_ids"].shape[1] == text
    grid = [-(-side // 2) for side in size]
    expected = layout_of_uno(*grid, [(h // 2, w // 2) for h, w in sizes], text)
    assert torch.equal(torch.cat((found["txt_ids"], found["img_ids"]), 1)[0], expected)
    assert found["img"].shape[1] == len(expected) - text


def test_the_hosts_style_tokens_are_what_they_should_be(projector, seen):
    """Guards the twin: three layers from fine to coarse, in this order."""
    output = seen[0]
    assert output.all_hidden_states.shape == (1, 27, 729, 32)
    layers = torch.stack([output.all_hidden_states[:, n] for n in (-20, -11)] + [output.penultimate_hidden_states])
    assert torch.allclose(projector.model(layers.float()), style_tokens(projector, output), atol=1e-4)


@pytest.mark.parametrize("dreamo", [None, make_model()], ids=["plain", "DreamO"])
@pytest.mark.parametrize("styles", [0, 1, 2])
def test_the_forward_pass_equals_the_slow_twin(flux, projector, seen, styles, dreamo):
    """UNO, USO, and a DreamO subject with USO's style."""
    references = make_chain(2)
    tables = (dreamo.embeddings.task, dreamo.embeddings.index) if dreamo else (None, None)
    tokens = style_tokens(projector, *seen[:styles]) if styles else None
    model, positive = applied(styled(flux, projector, *seen[:styles]), references, dreamo_model=dreamo)
    model, calls = record(model)
    sample(model, positive, steps=2)
    for call in calls:
        error = (twin(flux, call, references, tables, style=tokens) - call.output).abs().max().item()
        assert error == 0.0 if not styles else error < 1e-4
    if styles:
        assert (twin(flux, calls[0], references, tables) - calls[0].output).abs().max() > 1e-2
    if styles == 2:
        one = style_tokens(projector, seen[0])
        assert (twin(flux, calls[0], references, tables, style=one) - calls[0].output).abs().max() > 1e-3


def stock(references, positive=None):
    """The same latents through the host's own nodes."""
    positive = positive or make_conditioning()
    for reference in references:
        positive = ReferenceLatent.execute(positive, {"samples": reference.latent}).result[0]
    return FluxKontextMultiReferenceLatentMethod.execute(positive, "uxo/uno").result[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "count, cfg, batch, styles",
    # The host's style node makes its tokens for one picture at a time.
    [(1, 1.0, 1, 0), (3, 2.5, 1, 0), (2, 1.0, 2, 0), (1, 1.0, 1, 1), (3, 2.5, 1, 2)],
)
def test_without_a_dreamo_file_it_is_the_hosts_own_uno_bit_for_bit(projector, seen, count, cfg, batch, styles, dtype):
    model, references = styled(small_flux(dtype=dtype), projector, *seen[:styles]), make_chain(count)
    theirs = sample(model, stock(references), cfg=cfg, latent=empty_latent(batch=batch))
    patched, positive = applied(model, references)
    assert torch.equal(sample(patched, positive, cfg=cfg, latent=empty_latent(batch=batch)), theirs)


def text_of(styles):
    return 7 + styles * STYLE


@pytest.mark.parametrize("styles", [0, 1])
def test_painted_regions_equal_a_dense_log_bias(flux, projector, seen, styles, monkeypatch):
    """log w on the logits of image tokens for each reference's keys, in plain softmax attention."""
    references = make_chain(2)
    model, positive = applied(styled(flux, projector, *seen[:styles]), references)
    masks = torch.rand(2, 1, 8, 12, generator=torch.Generator().manual_seed(4))
    masks[masks < 0.3] = 0
    regions = positive
    for number, mask in enumerate(masks, start=1):
        regions = add_region(regions, make_region(number, mask, 0, False, False))
    model, calls = record(with_routing(model, RoutingSettings(stop=0.0)))
    sample(model, regions, steps=1)

    def attention(q, k, v, pe, **_):
        q, k = apply_rope(q, k, pe)
        bias, start = torch.zeros(q.shape[2], q.shape[2]), text_of(styles) + 96
        for mask, size in zip(masks, (16, 15), strict=True):
            rows = slice(text_of(styles), text_of(styles) + 96)
            bias[rows, start : start + size] = mask.flatten().log().clamp(min=NEVER_SEEN)[:, None]
            start += size
        weights = (q @ k.transpose(2, 3) / q.shape[3] ** 0.5 + bias).softmax(-1)
        return (weights @ v).transpose(1, 2).flatten(2)

    tokens = style_tokens(projector, *seen[:styles]) if styles else None
    unrouted = twin(flux, calls[0], references, style=tokens)
    monkeypatch.setattr(host_layers, "attention", attention)
    assert (twin(flux, calls[0], references, style=tokens) - calls[0].output).abs().max() < 1e-4
    assert (unrouted - calls[0].output).abs().max() > 1e-2


EQUAL = {0: (2, 2, 12, 10), 1: (8, 12, 18, 20)}
WORDS = ((2,), (4,))


def known_world():
    """`colour_flux` whose text tokens have colours too, and a prompt whose words 2 and 4 are colours 0 and 1."""
    model = colour_flux()
    flux = model.model.diffusion_model
    for c in range(8):
        flux.txt_in.weight[c, c], flux.txt_in.weight[BALANCE + c, c] = 1, -1
    key = flux.double_blocks[0].txt_attn.qkv.weight.view(3, 4, 32, 128)[1]
    key[:, :8, :8] = torch.eye(8)
    positive = make_conditioning()
    positive[0][0].zero_()
    for colour, (at,) in enumerate(WORDS):
        positive[0][0][0, at, colour] = 6
    return model, positive


def found_regions(model, positive, settings, references=None, dreamo_model=None):
    """How well the regions that routing finds meet the truth: IoU of each."""
    latent, masks = painted(EQUAL)
    patched, positive = applied(model, references or (solid(0), solid(1)), positive, dreamo_model)
    how = {"seed": 1, "steps": 12, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 0.4}
    routed = with_routing(patched, settings)
    _, maps = sample_routed(routed, positive, make_conditioning(9), {"samples": latent}, False, **how)
    regions = maps.last()[1][:, 0] > 0
    return [((regions[i] & masks[i]).sum() / (regions[i] | masks[i]).sum()).item() for i in (0, 1)]


def coloured_style(amount):
    """A style whose every token looks like the first subject."""
    projector = small_models.small_uso_projector(128)
    for parameter in projector.model.parameters():
        parameter.zero_()
    for level in ("high", "mid", "low"):
        bias = getattr(projector.model, f"{level}_projection").bias
        bias[0], bias[BALANCE] = amount, -amount
    return projector


@pytest.mark.parametrize("style", ["none", "random", "like the first subject"])
@pytest.mark.parametrize("source", ["references", "words", "both"])
def test_routing_finds_the_regions(projector, seen, source, style):
    model, positive = known_world()
    if style != "none":
        model = styled(model, projector if style == "random" else coloured_style(4.0), seen[0])
    # By threshold: what lies between "here" and "least of all" must not count as here.
    settings = RoutingSettings(gamma=0.5, threshold=0.5, source=source)
    scores = found_regions(model, set_words(positive, WORDS), settings)
    print(f"\n{source}, style {style}: IoU {scores[0]:.3f} {scores[1]:.3f}", end="")
    assert min(scores) >= 0.9


def test_the_words_are_what_routing_reads_there(projector, seen):
    """Guards the test above: other words of the same prompt do not find the regions."""
    model, positive = known_world()
    scores = found_regions(
        styled(model, projector, seen[0]), set_words(positive, ((1,), (5,))), RoutingSettings(source="words")
    )
    assert max(scores) < 0.5


def test_placeholders_of_a_dreamo_prompt_are_found_behind_the_style(projector, seen):
    model, positive = known_world()
    positive[0][1][PLACEHOLDERS_KEY] = PlaceholderPositions((("[ref#1]", WORDS[0]), ("[ref#2]", WORDS[1])))
    settings = RoutingSettings(source="words")
    assert min(found_regions(styled(model, projector, seen[0]), positive, settings, None, colour_dreamo())) >= 0.9


@pytest.mark.parametrize("styles", [0, 1])
@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_pruned_equals_the_slow_twin_with_those_tokens_removed(flux, projector, seen, styles, strength, monkeypatch):
    masks = [token_mask(4, 5, seed=1), torch.ones(3, 4).bool(), token_mask(4, 4, seed=2)]
    references = tuple(masked_reference(mask, n, strength=strength) for n, mask in enumerate(masks))
    model, positive = applied(styled(flux, projector, *seen[:styles]), references)
    model, calls = record(with_policy(model, ReusePolicy(prune=True, margin=0)))
    sample(model, positive, steps=2)
    kept = [slow_kept(mask, 0, 0.0) for mask in masks]
    assert [len(numbers) for numbers in kept] != [20, 12, 16]

    def attention(q, k, v, pe, **_):
        q, k = apply_rope(q, k, pe)
        bias, start = torch.zeros(q.shape[2], q.shape[2]), text_of(styles) + 96
        for numbers in kept:
            own = slice(start, start + len(numbers))
            bias[:, own] = torch.tensor(strength).log()
            bias[own, own] = 0
            start += len(numbers)
        weights = (q @ k.transpose(2, 3) / q.shape[3] ** 0.5 + bias).softmax(-1)
        return (weights @ v).transpose(1, 2).flatten(2)

    tokens = style_tokens(projector, *seen[:styles]) if styles else None
    monkeypatch.setattr(host_layers, "attention", attention)
    for call in calls:
        assert (twin(flux, call, references, style=tokens, kept=kept) - call.output).abs().max() < 1e-4


@pytest.mark.parametrize("dreamo", [None, make_model()], ids=["plain", "DreamO"])
@pytest.mark.parametrize("styles", [0, 1])
def test_a_reuse_step_equals_the_slow_twin(flux, projector, seen, styles, dreamo):
    references = make_chain(2)
    tables = (dreamo.embeddings.task, dreamo.embeddings.index) if dreamo else (None, None)
    tokens = style_tokens(projector, *seen[:styles]) if styles else None
    model, positive = applied(styled(flux, projector, *seen[:styles]), references, dreamo_model=dreamo)
    model, calls = record(with_policy(model, ONCE))
    sample(model, positive, steps=3)
    assert in_sequence(calls) == [True, False, False]
    kept = capture_keys(flux, calls[0], scaled(references), tables, tokens)
    for call in calls[1:]:
        assert (slow_reuse(flux, call, kept, tables, tokens) - call.output).abs().max() < 1e-4
        assert (twin(flux, call, references, tables, style=tokens) - call.output).abs().max() > 1e-3


@pytest.mark.parametrize("styles", [0, 1])
def test_refreshing_every_step_is_full_references_bit_for_bit(flux, projector, seen, styles):
    model, positive = applied(styled(flux, projector, *seen[:styles]), make_chain(2))
    always = with_policy(model, ReusePolicy(refresh="sigma distance", sigma_distance=0.0))
    assert torch.equal(sample(always, positive), sample(model, positive))


@pytest.mark.parametrize("styles", [0, 1])
def test_speed_works_for_references_of_stock_nodes(flux, projector, seen, styles):
    """The graph of the host's own UNO and USO examples, with DreamO Speed alone of ours."""
    model, references = styled(flux, projector, *seen[:styles]), make_chain(2)
    fast, calls = record(with_policy(model, ONCE))
    latent = sample(fast, stock(references))
    assert in_sequence(calls) == [True, False, False]
    ours, positive = applied(model, references)
    assert torch.equal(latent, sample(with_policy(ours, ONCE), positive))
    exact = with_policy(model, PRESETS["exact"])
    assert torch.equal(sample(exact, stock(references)), sample(model, stock(references)))
    # Where the host places them its own way, too.
    offset = FluxKontextMultiReferenceLatentMethod.execute(stock(references), "offset").result[0]
    calls.clear()
    assert not torch.equal(sample(fast, offset), latent)
    assert in_sequence(calls) == [True, False, False]


def test_the_store_of_stock_references_counts_in_the_hosts_estimate(flux):
    """As it does for references of DreamO Apply."""
    asked = []

    def estimate(executor, model, noise_shape, conds, *args, **kwargs):
        asked.append([latent.numel() for cond in conds["positive"] for latent in cond["reference_latents"]])
        return executor(model, noise_shape, conds, *args, **kwargs)

    references = make_chain(2)
    ours, positive = applied(flux, references)
    for model, conditioning in ((flux, stock(references)), (ours, positive)):
        model = with_policy(model, ONCE)
        model.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, "estimate", estimate)
        sample(model, conditioning, steps=1)
    assert asked[0] == asked[1] and len(asked[0]) == 3


@pytest.mark.parametrize("order", ["style first", "style last"])
def test_everything_at_once_with_the_style_before_or_after(flux, projector, seen, order):
    """A DreamO subject or UNO's, USO's style, routed, pruned, reused, with CFG."""
    references = tuple(masked_reference(token_mask(6, 6, 0.4, n), n) for n in range(2))
    for dreamo in (None, make_model()):
        model = styled(flux, projector, seen[0]) if order == "style first" else flux
        model, positive = applied(model, references, dreamo_model=dreamo)
        model = with_policy(with_routing(model, RoutingSettings(masks_from="extra first pass")), PRESETS["fast"])
        model = model if order == "style first" else styled(model, projector, seen[0])
        latent = sample(model, positive, steps=4, cfg=2.0)
        assert torch.isfinite(latent).all()
        other = applied(styled(flux, projector, seen[0]), references, dreamo_model=dreamo)
        routed = with_policy(with_routing(other[0], RoutingSettings(masks_from="extra first pass")), PRESETS["fast"])
        assert torch.equal(latent, sample(routed, other[1], steps=4, cfg=2.0))
        assert not torch.equal(latent, sample(*other, steps=4, cfg=2.0))


def test_the_nodes_say_what_they_take_a_chain_for():
    def note(references, dreamo_model):
        result = DreamOApply.execute(small_flux(depth=1), make_conditioning(), references, dreamo_model)
        return result.ui.as_dict()["text"][0]

    subject, style = make_reference(), make_reference(seed=1)
    object.__setattr__(style, "task", "style")
    dreamo = make_model()
    assert note((subject,), dreamo) == note((style,), dreamo) == ""
    assert "plain ones, as for UNO and USO" in note((subject,), None)
    assert "USO takes styles through the host's USOStyleReference" in note((subject, style), None)
    assert "DreamO was not trained to combine a style reference with others" in note((subject, style), dreamo)


def test_placeholders_without_a_dreamo_file_are_an_error():
    positive = make_conditioning(**{PLACEHOLDERS_KEY: PlaceholderPositions((("[ref#1]", (2,)),))})
    with pytest.raises(ValueError, match=r"placeholders \(\[ref#1\]\) but no DreamO file is connected"):
        applied(small_flux(depth=1), make_chain(1), positive)


def pictures():
    generator = np.random.default_rng(5)
    for size in ((300, 200), (200, 333), (512, 512), (90, 1000), (700, 9)):
        yield generator.integers(0, 256, (*size, 3), dtype=np.uint8)


def as_image(array):
    return torch.from_numpy(array.copy())[None] / 255


@pytest.mark.parametrize("long_side", [512, 320, 256])
@pytest.mark.parametrize("task", ["subject", "identity", "try-on", "style"])
def test_pictures_are_prepared_as_uno_and_uso_prepare_them(long_side, task):
    """The longer side to the size, Lanczos, the middle in multiples of 16, and the background stays."""
    for array in pictures():
        whole = Image.fromarray(array)
        zoom = long_side / max(whole.size)
        size = [round(side * zoom) if side == max(whole.size) else max(int(zoom * side), 16) for side in whole.size]
        small = np.asarray(whole.resize(size, Image.Resampling.LANCZOS))
        rows, columns = (side - side % 16 for side in small.shape[:2])
        top, left = (small.shape[0] - rows) // 2, (small.shape[1] - columns) // 2
        expected = as_image(small[top : top + rows, left : left + columns])
        picture = prepare(as_image(array), task, long_side, profile="UNO, USO")
        assert torch.equal(picture.pixels, expected) and picture.keep is None and "kept whole" in picture.note


def test_a_mask_or_a_remover_still_cuts_the_subject_out():
    array = next(pictures())
    mask = torch.zeros(1, 300, 200)
    mask[:, 100:200, 50:150] = 1
    picture = prepare(as_image(array), "subject", 320, mask, profile="UNO, USO")
    assert picture.pixels.shape[1:3] == picture.keep.shape[1:] == (320, 208)
    assert picture.pixels[:, :80].min() == 1 and picture.pixels[:, 140:180, 80:120].std() > 0.1
    assert picture.keep[:, :80].max() == 0 and picture.keep[:, 140:180, 80:120].min() == 1
    transparent = torch.cat((as_image(array), mask[..., None]), 3)
    assert torch.equal(prepare(transparent, "subject", 320, profile="UNO, USO").pixels, picture.pixels)
    # On white as well where nothing is cut out for pruning.
    kept = prepare(transparent, "subject", 320, background="keep", profile="UNO, USO")
    assert torch.equal(kept.pixels, picture.pixels) and kept.keep is None
    assert prepare(as_image(array), "subject", 320, mask, "keep", profile="UNO, USO").pixels[:, :80].min() < 1
    named = prepare(as_image(array), "subject", 320, None, "grabcut", profile="UNO, USO")
    assert "kept whole" not in named.note or named.keep is None


def styled_by_ours(model, projector, outputs):
    for output in outputs:
        model = DreamOUSOStyle.execute(model, projector, output).result[0]
    return model


@pytest.mark.parametrize("styles", [1, 2])
def test_our_style_node_is_the_hosts_for_a_batch_of_one(flux, projector, seen, styles):
    theirs = styled(flux, projector, *seen[:styles])
    ours = styled_by_ours(flux, projector, seen[:styles])
    assert torch.equal(sample(ours, make_conditioning()), sample(theirs, make_conditioning()))


@pytest.mark.parametrize("cfg", [1.0, 2.0])
@pytest.mark.parametrize("own", [False, True], ids=["one style for all", "a style for each"])
def test_our_style_node_takes_batches(flux, projector, seen, cfg, own):
    """Against the slow twin with the style tokens of each sample in front of its text."""
    pictures = copy.copy(seen[0])
    if own:
        for name in ("all_hidden_states", "penultimate_hidden_states"):
            setattr(pictures, name, torch.cat([getattr(s, name) for s in seen[:2]]))
    recorded, calls = record(styled_by_ours(flux, projector, [pictures]))
    sample(recorded, make_conditioning(), cfg=cfg, latent=empty_latent(batch=2), steps=1)
    style = slow_style_tokens(projector.model, pictures.all_hidden_states)
    for call in calls:
        batch = call.x.shape[0]
        tokens = torch.stack([style[n % len(style)] for n in range(batch)])
        arguments = (call.x, call.timestep, call.context, call.y, call.guidance.expand(batch))
        expected = slow_flux(flux.model.diffusion_model, *arguments, style=tokens)
        assert (call.output - expected).abs().max() <= 1e-4
    assert sum(call.x.shape[0] for call in calls) == (2 if cfg == 1.0 else 4)
    if own:
        with pytest.raises(ValueError, match="2 style pictures for a batch of 3"):
            sample(styled_by_ours(flux, projector, [pictures]), make_conditioning(), latent=empty_latent(batch=3))

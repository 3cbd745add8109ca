"""Placeholders in the host's T5, against transformers' T5 with ten added tokens."""

import copy
import gc
import json
import unicodedata
import weakref
from pathlib import Path

import comfy.hooks
import comfy.sd
import comfy.sd1_clip
import comfy.text_encoders.sd3_clip
import nodes
import pytest
import torch
from comfy_extras.nodes_cond import T5TokenizerOptions
from comfy_extras.nodes_flux import CLIPTextEncodeFlux
from dreamo_routed.dreamo_core.host.text_encoder import encode_prompt, with_placeholders
from dreamo_routed.dreamo_core.run.keys import CONDITIONING_KEY, PLACEHOLDERS_KEY, PROMPT_TOKENS_KEY
from dreamo_routed.dreamo_core.sequence.embeddings import Embeddings
from dreamo_routed.dreamo_core.text.placeholders import shift_in_model
from dreamo_routed.dreamo_core.training.encoders import T5Prompts
from dreamo_routed.minidreamo.host import small_models
from dreamo_routed.minidreamo.host.mini_world import TEXT_TOKENS, mini_text_encoders
from dreamo_routed.nodes.apply import DreamOApply
from dreamo_routed.nodes.text import DreamOPlaceholders, DreamOTextEncode
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.transformers_t5 import TOKENS, TransformersT5
from safetensors.torch import save_file
from support import REPO, apply_dreamo, make_chain, make_embeddings, make_model, sample, small_flux

TOLERANCE = 1e-5

OFFICIAL = json.loads((REPO / "dreamo_core" / "check" / "official_token_ids.json").read_text())["prompts"]
T5_TOKENIZER = Path(comfy.text_encoders.sd3_clip.__file__).parent / "t5_tokenizer"

PROMPTS = [
    "[ref#1]",
    "a woman from [ref#1] and a dog from [ref#2] in the park",
    "[ref#1]'s dog",
    "portrait of [ref#1], [ref#2], [ref#3], [ref#4], [ref#5], [ref#6], [ref#7], [ref#8] and [ref#9]; [res]",
    "[ref#1][ref#2][res][ref#1]",
    "glued[ref#1]words [res].",
    "  leading, trailing   and  inner  spaces [ref#2]  ",
    "first line\nsecond line with [ref#1]\n\n[ref#2]\r\nfourth\tline",
    "an image without any placeholder",
    "",
    " ",
    "generate a same style image. a cat in the style of [ref#1]",
    "一个来自[ref#1]的女人和一只来自[ref#2]的狗在公园里",
    "公園で[ref#1]の女性と[ref#2]の犬、全角ＡＢＣ１２３",
    "［ref#1］ と ［ref＃2］ の全角括弧",
    "[ref#1]에서 온 여자와 [ref#2]에서 온 개",
    "женщина из [ref#1] и собака из [ref#2] в парке",
    "une femme de [ref#1] à côté d'un chien de [ref#2], été, œuvre",
    "eine Frau aus [ref#1] und ein Hund aus [ref#2] im Park, schöne Straße",
    "una mujer de [ref#1] y un perro de [ref#2], ¿dónde?",
    "امرأة من [ref#1] وكلب من [ref#2] في الحديقة",
    "אישה מ[ref#1] וכלב מ[ref#2]",
    "पार्क में [ref#1] की महिला और [ref#2] का कुत्ता",
    "ผู้หญิงจาก [ref#1] กับสุนัข",
    "một người phụ nữ từ [ref#1] và chú chó",
    "γυναίκα από [ref#1] στο πάρκο",
    "emoji 🐕[ref#1]👩‍🦰 and ½ ligature ﬁ [ref#2]",
    "e\u0301 combining, zero\u200bwidth [ref#1]\u00a0no-break",
    "{red|blue} wildcard left over, [ref#1] __animal__ <lora:x:1> BREAK [ref#2]",
    "a sign that says \\[ref#1\\] held by [ref#1]",
    "brackets [cat] [[ref#1]] [] ][ [ref#2]",
    "</s> <pad> <unk> <extra_id_0> [ref#1]",
    "very long: " + "a woman from [ref#1] walks along the river, " * 60 + "[ref#2]",
]


@pytest.fixture(scope="module")
def clip():
    clip = small_models.small_text_encoders(0)
    # As T5 itself is initialised; else its unscaled attention is all peaks, which only amplifies rounding.
    for block in clip.cond_stage_model.t5xxl.transformer.encoder.block:
        block.layer[0].SelfAttention.q.weight.data *= 16**-0.5
    return clip


@pytest.fixture(scope="module")
def embeddings():
    return make_embeddings(scale=1.0)


@pytest.fixture(scope="module")
def patched(clip, embeddings):
    return with_placeholders(clip, embeddings, "dreamo.safetensors")


@pytest.fixture(scope="module")
def oracle(clip, embeddings):
    with torch.no_grad():
        return TransformersT5(clip.cond_stage_model.t5xxl.transformer, embeddings.placeholders)


@pytest.fixture(scope="module")
def tokens_in_training():
    """Prompts as training reads them; placeholder n has the id that the released pipeline gives it."""
    return T5Prompts(T5_TOKENIZER, 32100, 0)


def encode(clip, prompt):
    [(cond, values)] = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
    return cond, values


def t5_hidden(clip, prompt):
    return clip.cond_stage_model.t5xxl.encode_token_weights(clip.tokenize(prompt)["t5xxl"])[0]


def found(values):
    """(name, position) in order of position, as the oracle lists them."""
    positions = values.get(PLACEHOLDERS_KEY)
    pairs = [] if positions is None else [(name, p) for name, at in positions.tokens for p in at]
    return sorted(pairs, key=lambda pair: pair[1])


def assert_equals_transformers(patched, oracle, prompt):
    ids = oracle.ids(prompt)
    cond, values = encode(patched, prompt)
    expected = oracle.hidden_states(ids)
    assert cond.shape == expected.shape
    assert (cond - expected).abs().max() <= TOLERANCE
    assert found(values) == oracle.positions(ids)
    return float((cond - expected).abs().max())


def test_fixed_prompts_equal_transformers(patched, oracle):
    worst = max(assert_equals_transformers(patched, oracle, prompt) for prompt in PROMPTS)
    print(f"\n{len(PROMPTS)} fixed prompts: largest difference {worst:.2e}")


@pytest.mark.parametrize("case", OFFICIAL, ids=lambda case: case["prompt"][:20])
def test_token_ids_are_the_official_ones(patched, oracle, tokens_in_training, case):
    """Recorded ids: neither side can be wrong together with the installed version of transformers."""
    [section] = patched.tokenize(case["prompt"])["t5xxl"]
    t5 = patched.tokenizer.t5xxl
    ids = {id(row): t5.placeholder_ids[name] for name, row in t5.placeholder_rows.items()}
    ours = [ids[id(token)] if torch.is_tensor(token) else token for token, _ in section]
    assert ours == case["ids"] + [0] * (256 - len(case["ids"]))
    assert oracle.ids(case["prompt"], 0) == case["ids"]
    assert list(tokens_in_training(case["prompt"]).ids) == case["ids"]


def plain(text):
    """No brackets (they would be misspelt placeholders), nor what the host's own prompt syntax takes for itself."""
    return not set("[]()\\\0") & set(unicodedata.normalize("NFKC", text)) and "embedding:" not in text


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(plain)
GENERATED = st.lists(st.one_of(TEXT, st.sampled_from(TOKENS), st.sampled_from([" ", "\n", ", "])), max_size=12)


def test_generated_prompts_equal_transformers(patched, oracle):
    differences = []

    @given(GENERATED.map("".join))
    @settings(max_examples=30, derandomize=True, deadline=None)
    def compare(prompt):
        differences.append(assert_equals_transformers(patched, oracle, prompt))

    compare()
    print(f"\n{len(differences)} generated prompts: largest difference {max(differences):.2e}")
    assert len(differences) >= 30


def test_the_rows_matter(clip, patched, oracle):
    """A wrong row would not go unnoticed: the plain text and another row are far beyond the tolerance."""
    right = t5_hidden(patched, "a dog from [ref#1]")
    assert (t5_hidden(clip, "a dog from [ref#1]")[:, :5] - right[:, :5]).abs().max() > 0.1
    assert (t5_hidden(patched, "a dog from [ref#2]") - right).abs().max() > 0.1


@pytest.mark.parametrize(
    "prompt, segments",
    [
        ("a ([ref#1]:1.5) in the park", [("a ", 1.0), ("[ref#1]", 1.5), (" in the park", 1.0)]),
        ("(a dog from [ref#2], running) fast", [("a dog from [ref#2], running", 1.1), (" fast", 1.0)]),
        ("([ref#1]:0.3)([res]:1.7)", [("[ref#1]", 0.3), ("[res]", 1.7)]),
        ("(((deep [ref#3])))", [("deep [ref#3]", 1.1**3)]),
        ("\\(not a weight: [ref#1]\\) (dog:0)", [("(not a weight: [ref#1]) ", 1.0), ("dog", 0.0)]),
        ("([ref#1]:1.2) BREAK 全角（[ref#2]）", [("[ref#1]", 1.2), (" BREAK 全角（[ref#2]）", 1.0)]),
    ],
)
def test_weights(patched, oracle, prompt, segments):
    cond, values = encode(patched, prompt)
    assert (cond - oracle.weighted(segments)).abs().max() <= 2 * TOLERANCE
    names = [token for text, _ in segments for token in TOKENS if token in text]
    assert sorted(name for name, _ in found(values)) == sorted(names)


def embeds_seen_by_t5(clip, prompt):
    """What goes into the T5's first block, by the host's own code: (l, d)."""
    [section] = clip.tokenize(prompt)["t5xxl"]
    return clip.cond_stage_model.t5xxl.process_tokens([[token for token, _ in section]], "cpu")[0][0]


@pytest.fixture
def inversions(clip, tmp_path, monkeypatch):
    """Textual inversions of two and one vectors for both encoders, and one made for an encoder of another width."""
    draw = lambda rows, width: torch.randn(rows, width, generator=torch.Generator().manual_seed(rows))  # noqa: E731
    save_file({"t5xxl": draw(2, 64), "clip_l": draw(3, 64)}, tmp_path / "pair.safetensors")
    save_file({"t5xxl": draw(1, 64), "clip_l": draw(1, 64)}, tmp_path / "single.safetensors")
    save_file({"t5xxl": draw(4, 32), "clip_l": draw(1, 64)}, tmp_path / "misfit.safetensors")
    for tokenizer in (clip.tokenizer.t5xxl, clip.tokenizer.clip_l):
        monkeypatch.setattr(tokenizer, "embedding_directory", [str(tmp_path)])
    return draw


@pytest.mark.parametrize(
    "prompt",
    [
        "embedding:pair [ref#1] and embedding:single, [ref#2]",
        "[res] embedding:misfit [ref#1] embedding:pair (embedding:misfit [ref#2]:1.3)",
        "(embedding:pair:0.7) embedding:missing [ref#3]",
    ],
)
def test_positions_stand_where_the_rows_are_beside_textual_inversions(clip, embeddings, inversions, prompt):
    patched = with_placeholders(clip, embeddings, "dreamo.safetensors")
    cond, values = encode(patched, prompt)
    inputs = embeds_seen_by_t5(patched, prompt)
    rows = dict(zip(TOKENS, embeddings.placeholders, strict=True))
    assert len(found(values)) == prompt.count("[re") and cond.shape[1] == inputs.shape[0]
    for name, position in found(values):
        assert torch.equal(inputs[position], rows[name])


def test_textual_inversions_equal_transformers(clip, embeddings, oracle, inversions):
    patched = with_placeholders(clip, embeddings, "dreamo.safetensors")
    table = oracle.model.get_input_embeddings().weight
    tokens = lambda text: table[oracle.tokenizer.encode(text).ids[:-1]]  # noqa: E731
    # The host cuts off the blank before `embedding:` and what follows its name is joined anew by single blanks.
    inputs = torch.cat([tokens("[ref#1] and"), inversions(2, 64), tokens("from [ref#2]"), table[[1]]])
    inputs = torch.cat([inputs, table[[0]].expand(256 - len(inputs), -1)])
    cond, _ = encode(patched, "[ref#1] and embedding:pair from [ref#2]")
    assert (cond - oracle.hidden_states_of(inputs[None])).abs().max() <= TOLERANCE


PLAIN_PROMPTS = [
    "",
    "a cat",
    "negative, (worst quality:1.4), \\(text\\), [cat] {a|b} __w__ BREAK",
    "日本語のプロンプト、全角（丸括弧）と［角括弧］\nnew line\ttab",
    "a sign that says \\[ref#1\\] and \\[res\\]",
    "long " * 700,
]


def assert_same_conditioning(left, right):
    assert len(left) == len(right)
    for (a, a_values), (b, b_values) in zip(left, right, strict=True):
        assert torch.equal(a, b)
        # Beside the tokens that we leave on it, which DreamO Routing Words alone reads.
        assert a_values.keys() - {PROMPT_TOKENS_KEY} == b_values.keys() - {PROMPT_TOKENS_KEY}
        assert torch.equal(a_values["pooled_output"], b_values["pooled_output"])
        assert a_values.get("guidance") == b_values.get("guidance")


@pytest.mark.parametrize("prompt", PLAIN_PROMPTS)
def test_prompts_without_placeholders_encode_bit_identically_to_the_hosts_nodes(clip, embeddings, prompt):
    dreamo_model = make_model()
    [patched] = DreamOPlaceholders.execute(clip, dreamo_model).result
    [ours] = DreamOTextEncode.execute(clip, dreamo_model, prompt, 4.5).result
    [flux] = CLIPTextEncodeFlux.execute(clip, prompt, prompt, 4.5).result
    assert_same_conditioning(ours, flux)
    assert_same_conditioning(CLIPTextEncodeFlux.execute(patched, prompt, prompt, 4.5).result[0], flux)
    [host] = nodes.CLIPTextEncode().encode(clip, prompt)
    assert_same_conditioning(nodes.CLIPTextEncode().encode(patched, prompt)[0], host)
    for options in ({}, {"return_word_ids": True}, {"tokenizer_options": {"t5xxl_min_length": 512}}):
        assert clip.tokenize(prompt, **options) == patched.tokenize(prompt, **options)


def test_textual_inversions_without_placeholders_are_bit_identical(clip, embeddings, inversions):
    patched = with_placeholders(clip, embeddings, "dreamo.safetensors")
    prompt = "a (embedding:pair:1.2) embedding:misfit cat"
    assert torch.equal(encode(clip, prompt)[0], encode(patched, prompt)[0])


def test_clip_l_sees_plain_text(clip, patched):
    prompt = "a woman from [ref#1] and ([ref#2]:1.3)"
    assert patched.tokenize(prompt)["l"] == clip.tokenize(prompt)["l"]
    assert torch.equal(encode(clip, prompt)[1]["pooled_output"], encode(patched, prompt)[1]["pooled_output"])


def test_all_ways_to_encode_agree(clip, patched):
    prompt = "a woman from [ref#1] and ([ref#2]:1.3)"
    [ours] = DreamOTextEncode.execute(clip, make_model_with(patched), prompt, 4.5).result
    [flux] = CLIPTextEncodeFlux.execute(patched, prompt, prompt, 4.5).result
    [host] = nodes.CLIPTextEncode().encode(patched, prompt)
    assert_same_conditioning(ours, flux)
    assert torch.equal(ours[0][0], host[0][0])
    assert ours[0][1][PLACEHOLDERS_KEY] == flux[0][1][PLACEHOLDERS_KEY] == host[0][1][PLACEHOLDERS_KEY]
    # The T5 prompt is what counts where the two encoders get different prompts.
    [split] = CLIPTextEncodeFlux.execute(patched, "a woman", prompt, 4.5).result
    assert torch.equal(split[0][0], ours[0][0]) and split[0][1][PLACEHOLDERS_KEY] == ours[0][1][PLACEHOLDERS_KEY]


def make_model_with(patched):
    """A DREAMO_MODEL with the rows that `patched` has."""
    rows = torch.stack(list(patched.tokenizer.t5xxl.placeholder_rows.values()))
    model = make_model()
    return type(model)(model.path, Embeddings(model.embeddings.task, model.embeddings.index, rows))


def test_the_given_clip_is_left_alone(clip, embeddings):
    prompt, kinds = "a dog from [ref#1]", (type(clip), type(clip.tokenizer), type(clip.tokenizer.t5xxl))
    before, attributes = clip.tokenize(prompt), set(vars(clip)) | set(vars(clip.tokenizer.t5xxl))
    words = len(clip.tokenizer.t5xxl.tokenizer)
    methods = {kind: dict(vars(kind)) for kind in kinds}
    patched = with_placeholders(clip, embeddings, "dreamo.safetensors")
    encode(patched, prompt)
    assert clip.tokenize(prompt) == before and len(clip.tokenizer.t5xxl.tokenizer) == words
    assert (type(clip), type(clip.tokenizer), type(clip.tokenizer.t5xxl)) == kinds
    assert set(vars(clip)) | set(vars(clip.tokenizer.t5xxl)) == attributes
    assert all(dict(vars(kind)) == methods[kind] for kind in kinds)
    assert patched.cond_stage_model is clip.cond_stage_model and isinstance(patched, comfy.sd.CLIP)


def test_clones_and_repeated_patches_keep_understanding(patched, clip, oracle, embeddings):
    prompt = "a dog from [ref#1]"
    expected, values = encode(patched, prompt)
    clone = patched.clone().clone()
    clone.set_tokenizer_option("t5xxl_min_length", 300)
    cond, cloned_values = encode(clone, prompt)
    assert cond.shape[1] == 300 and found(cloned_values) == found(values) == [("[ref#1]", 5)]
    other = Embeddings(embeddings.task, embeddings.index, embeddings.placeholders.flip(0))
    twice = with_placeholders(with_placeholders(clip, other, "a"), embeddings, "b")
    assert torch.equal(encode(twice, prompt)[0], expected) and found(encode(twice, prompt)[1]) == found(values)


def test_positions_travel_with_scheduled_hooks_too(patched):
    clip = patched.clone()
    hooks = comfy.hooks.HookGroup()
    hooks.add(comfy.hooks.WeightHook())
    clip.patcher.forced_hooks = hooks
    clip.use_clip_schedule = True
    [(_, values)] = clip.encode_from_tokens_scheduled(clip.tokenize("a dog from [ref#1]"))
    assert "clip_start_percent" in values and found(values) == [("[ref#1]", 5)]


@pytest.mark.parametrize("prompt", ["[ref # 1]", "[ref#0]", "[ref#10]"])
def test_misspelt_placeholders_are_refused_by_every_way_in(clip, patched, prompt):
    ways = [
        lambda: DreamOTextEncode.execute(clip, make_model(), prompt, 4.5),
        lambda: nodes.CLIPTextEncode().encode(patched, prompt),
        lambda: CLIPTextEncodeFlux.execute(patched, "", prompt, 4.5),
    ]
    for way in ways:
        with pytest.raises(ValueError, match="is no DreamO placeholder"):
            way()
    # The host's own way still takes it as text.
    nodes.CLIPTextEncode().encode(clip, prompt)


def test_references_are_checked_at_the_text_node(clip):
    run = lambda prompt, count: DreamOTextEncode.execute(clip, make_model(), prompt, 4.5, make_chain(count))  # noqa: E731
    with pytest.raises(ValueError, match=r"names \[ref#3\] but the DreamO chain has only references 1 to 2"):
        run("[ref#1] [ref#3]", 2)
    for prompt in ("[ref#1] [ref#2]", "[res] [ref#2]", "plain"):
        [(_, values)] = run(prompt, 2).result[0]
        assert [name for name, _ in found(values)] == [word for word in prompt.split() if word in TOKENS]


def test_references_are_checked_at_apply(clip):
    model = small_flux()
    positive = encode_prompt(clip, make_embeddings(), "x", "[ref#2]", 3.5)
    with pytest.raises(ValueError, match=r"names \[ref#2\] but the DreamO chain has only reference 1"):
        apply_dreamo(model, positive, make_chain(1))
    _, attached = apply_dreamo(model, positive, make_chain(2))
    entry = attached[0][1]["model_conds"][CONDITIONING_KEY].cond
    assert entry.placeholders.of("[ref#2]") == (0,)
    notes = [
        DreamOApply.execute(model, part, make_chain(2), make_model()).ui.as_dict()["text"][0]
        for part in (positive, encode_prompt(clip, make_embeddings(), "x", "plain", 3.5))
    ]
    assert "[ref#1]." in notes[0] and notes[1] == ""
    combined = positive + encode_prompt(clip, make_embeddings(), "x", "plain", 3.5)
    _, attached = apply_dreamo(model, combined, make_chain(2))
    entries = [values["model_conds"][CONDITIONING_KEY].cond for _, values in attached]
    assert entries[0].placeholders.names == ("[ref#2]",) and entries[1].placeholders is None


def test_rows_are_needed_for_placeholders_only(clip):
    model = make_model()
    bare = type(model)(
        model.path.with_name("embedding.safetensors"), Embeddings(model.embeddings.task, model.embeddings.index)
    )
    DreamOTextEncode.execute(clip, bare, "plain", 4.5)
    for call in (
        lambda: DreamOTextEncode.execute(clip, bare, "[ref#1]", 4.5),
        lambda: DreamOPlaceholders.execute(clip, bare),
    ):
        with pytest.raises(ValueError, match=r"embedding\.safetensors has no T5 rows.*choose dreamo\.safetensors"):
            call()


def test_rows_must_fit_the_t5(clip):
    wide = Embeddings(torch.zeros(2, 8), torch.zeros(10, 8), torch.zeros(10, 4096))
    with pytest.raises(ValueError, match="4096 wide but this CLIP's T5 is 64 wide"):
        with_placeholders(clip, wide, "dreamo.safetensors")


class _Target:
    params = {}

    def __init__(self, clip, tokenizer):
        self.clip, self.tokenizer = clip, tokenizer


def test_a_clip_without_t5_is_refused(embeddings):
    # SD3 takes the last layer but one, so it needs more of them.
    clip_l = {**small_models.TEXT_CONFIG["clip_l_model_config"], "num_hidden_layers": 3}
    options = {"clip_l_model_config": clip_l, "dtype": torch.float32}
    sd1 = comfy.sd.CLIP(_Target(comfy.sd1_clip.SD1ClipModel, comfy.sd1_clip.SD1Tokenizer), model_options=options)
    sd3_class = comfy.text_encoders.sd3_clip.sd3_clip(clip_l=True, clip_g=False, t5=False)
    sd3 = comfy.sd.CLIP(_Target(sd3_class, comfy.text_encoders.sd3_clip.SD3Tokenizer), model_options=options)
    for clip in (sd1, sd3, object()):
        with pytest.raises(ValueError, match="this CLIP .* has none; load clip_l and t5xxl with DualCLIPLoader"):
            with_placeholders(clip, embeddings, "dreamo.safetensors")


def test_positions_hold_in_the_model_when_text_is_prepended_and_the_conditioning_grew(clip):
    """Redux-like tokens appended to the conditioning and USO-like tokens prepended inside the model, both at once."""
    model = small_flux()
    embeddings = make_embeddings()
    positive = encode_prompt(clip, embeddings, "x", "a woman from [ref#1] and a dog from [ref#2]", 3.5)
    grown = [[torch.cat((cond, torch.randn(1, 9, 64)), dim=1), values] for cond, values in positive]
    patched, attached = apply_dreamo(model, grown, make_chain(2))
    positions = attached[0][1]["model_conds"][CONDITIONING_KEY].cond.placeholders
    seen = []

    def prepend(args):
        own = args["txt"]
        args = {**args, "txt": torch.cat((torch.zeros(1, 13, own.shape[-1]), own), dim=1)}
        ids = torch.zeros(1, args["txt"].shape[1], 3)
        moved = shift_in_model(grown[0][0].shape[1], args["txt"].shape[1])
        for name, tokens in positions.tokens:
            seen.extend((name, torch.equal(args["txt"][0, at + moved], own[0, at]), moved) for at in tokens)
        return {**args, "txt_ids": ids}

    patched = patched.clone()
    patched.set_model_patch(prepend, "post_input")
    sample(patched, attached, steps=1)
    assert seen == [("[ref#1]", True, 13), ("[ref#2]", True, 13)]


def test_a_tokenizer_is_copied_once(clip, embeddings, monkeypatch):
    """Copying takes longer than encoding; the copy goes with the CLIP that it is of."""
    copied = []
    original = copy.deepcopy
    fresh = small_models.small_text_encoders(0)
    monkeypatch.setattr(copy, "deepcopy", lambda value: copied.append(value) or original(value))
    results = [encode_prompt(fresh, embeddings, "", "a cat from [ref#1]", 3.5)[0][0] for _ in range(3)]
    results.append(encode(with_placeholders(fresh.clone(), embeddings, ""), "a cat from [ref#1]")[0])
    tokenizer = fresh.tokenizer.t5xxl.tokenizer
    assert [one for one in copied if isinstance(one, type(tokenizer))] == [tokenizer]
    assert all(torch.equal(result, results[0]) for result in results)
    # Other rows, the same copy: nothing of the first is left.
    other = encode_prompt(fresh, make_embeddings(seed=8), "", "a cat from [ref#1]", 3.5)[0][0]
    assert not torch.equal(other, results[0])
    gone = weakref.ref(fresh.tokenizer.t5xxl.tokenizer)
    copied.clear()
    del fresh, tokenizer
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("prompt", ["a dog from [ref#1]", "a plain dog", ""])
def test_t5_is_padded_to_512_as_released_and_the_words_stay_where_they_were(clip, oracle, patched, prompt):
    dreamo_model = make_model_with(patched)
    [released] = DreamOTextEncode.execute(clip, dreamo_model, prompt, 4.5, t5_length=512).result
    ids = oracle.ids(prompt, 512)
    assert len(ids) == 512 and found(released[0][1]) == oracle.positions(ids)
    assert (released[0][0] - oracle.hidden_states(ids)).abs().max() <= TOLERANCE
    [absent] = DreamOTextEncode.execute(clip, dreamo_model, prompt, 4.5).result
    assert absent[0][0].shape[1] == 256 and found(absent[0][1]) == found(released[0][1])
    [named] = DreamOPlaceholders.execute(clip, dreamo_model, 512).result
    assert_same_conditioning(CLIPTextEncodeFlux.execute(named, prompt, prompt, 4.5).result[0], released)
    assert "t5xxl_min_length" not in clip.tokenizer_options


def test_a_length_from_the_hosts_node_counts(clip, patched):
    dreamo_model, prompt = make_model_with(patched), "a dog from [ref#1]"
    length_of = lambda conditioning: conditioning[0][0].shape[1]  # noqa: E731
    options = lambda clip, length: T5TokenizerOptions.execute(clip, 0, length).result[0]  # noqa: E731
    for length, expected in ((300, 300), (0, 7)):
        own = options(clip, length)
        assert length_of(DreamOTextEncode.execute(own, dreamo_model, prompt, 4.5, t5_length=512).result[0]) == expected
        [named] = DreamOPlaceholders.execute(own, dreamo_model, 512).result
        assert length_of(nodes.CLIPTextEncode().encode(named, prompt)[0]) == expected
        # Behind ours as well.
        behind = options(DreamOPlaceholders.execute(clip, dreamo_model, 512).result[0], length)
        assert length_of(nodes.CLIPTextEncode().encode(behind, prompt)[0]) == expected
    [long] = DreamOTextEncode.execute(clip, dreamo_model, "word " * 600, 4.5, t5_length=512).result
    assert length_of(long) == 601


def test_the_mini_world_keeps_its_own_length(embeddings):
    mini = mini_text_encoders()
    assert encode(mini, "a cat")[0].shape[1] == TEXT_TOKENS
    [cond] = DreamOTextEncode.execute(mini, make_model(), "a cat", 4.5, t5_length=512).result
    assert torch.equal(cond[0][0], encode(mini, "a cat")[0])

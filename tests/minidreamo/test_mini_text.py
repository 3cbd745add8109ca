"""The mini world's T5 learns to read: which words belong together, and where their subject stands."""

import re

import numpy as np
import pytest
import torch
from dreamo_routed.minidreamo.host import mini_world
from safetensors.torch import load_file
from training_world import COMFY
from transformers import T5TokenizerFast

from dreamo_core.training.encoders import T5Prompts, load_t5, t5_inputs
from minidreamo import art, scenes, train_text

NAMES = ["fox", "ring", "red apple", "owl", "tea", "teapot", "ant", "dog face", "umbrella", "ice cream"]


@pytest.fixture(scope="module")
def world():
    shape = (len(NAMES), len(scenes.STYLES))
    return art.Art(NAMES, np.zeros((*shape, art.SIZE, art.SIZE, 4), np.uint8), np.ones(shape, bool))


@pytest.fixture(scope="module")
def tokenizer():
    return T5TokenizerFast.from_pretrained(COMFY / "text_encoders" / "t5_tokenizer")


@pytest.fixture(scope="module")
def reading(world, tokenizer):
    return train_text.Prompts(world, tokenizer, seed=0)[3]


def words(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=True).strip()


def test_phrases_are_names_and_the_words_after_them(reading, tokenizer):
    marked = 0
    for number, (row, subject, mark) in enumerate(zip(reading.rows, reading.subjects, reading.marks, strict=True)):
        ids, inside = reading.ids[row], reading.phrase[row] == number
        expected = NAMES[subject] + (f" from {words(tokenizer, mark[None])}" if mark else "")
        assert words(tokenizer, ids[inside]) == expected
        assert words(tokenizer, ids[reading.names[number]]) == NAMES[subject]
        assert not (reading.phrase == number)[torch.arange(len(reading.ids)) != row].any()
        marked += bool(mark)
    assert 0.6 < marked / len(reading.rows) < 0.8


def test_places_are_those_of_the_words(reading, tokenizer):
    single = {"on the left": 3, "on the right": 5, "at the top": 1, "at the bottom": 7}
    kinds = set()
    for row, ids in enumerate(reading.ids):
        text = words(tokenizer, ids)
        if " left of " in text:
            expected = [3, 5]
        elif " above " in text:
            expected = [1, 6, 8] if re.search(r" above an? .* and an? ", text) else [1, 7]
        else:
            expected = [next((place for phrase, place in single.items() if phrase in text), 4)]
        assert reading.places[reading.rows == row].tolist() == expected, text
        kinds.add(tuple(expected))
    assert len(kinds) == 8


def test_losses_agree_with_loops(reading):
    torch.manual_seed(0)
    reader = train_text.Reader(8)
    features, shared = torch.randn(*reading.ids.shape, 8), torch.randn(32128, 8)
    losses, right = reader(features, shared, reading)
    names = [shared[reading.ids[r]][own].mean(0) for r, own in zip(reading.rows, reading.names, strict=True)]
    marks = sorted(set(reading.marks.tolist()))
    sums, hits, count = dict.fromkeys(losses, 0.0), dict.fromkeys(losses, 0), 0
    for row in range(8):
        for token, number in enumerate(reading.phrase[row].tolist()):
            if number < 0:
                continue
            x = features[row, token]
            place = reader.place(x).softmax(0)
            name = torch.stack([reader.name(x) @ each for each in names]).softmax(0)
            mark = torch.stack([reader.mark(x) @ shared[each] for each in marks]).softmax(0)
            # The same subject in another prompt is as right.
            same = [n for n, subject in enumerate(reading.subjects) if subject == reading.subjects[number]]
            own = {"place": place[reading.places[number]], "name": name[same].sum()}
            own["mark"] = mark[marks.index(reading.marks[number])]
            for key, value in own.items():
                sums[key] -= float(value.log())
            hits["place"] += int(place.argmax() == reading.places[number])
            hits["name"] += int(name.argmax()) in same
            hits["mark"] += marks[mark.argmax()] == reading.marks[number]
            count += 1
    first = reading.phrase.clone()
    first[8:] = -1
    part = train_text.Reading(**{**vars(reading), "phrase": first})
    losses, right = reader(features, shared, part)
    for key in losses:
        assert float(losses[key]) == pytest.approx(sums[key] / count, rel=1e-4)
        assert float(right[key]) == pytest.approx(hits[key] / count)


def test_training_keeps_the_table_of_words_and_goes_on(world, tmp_path, monkeypatch):
    monkeypatch.setattr(art, "load", lambda cache: world)
    monkeypatch.setattr(train_text, "BATCH", 4)
    weights = []
    with torch.enable_grad():
        for steps in (1, 2):
            train_text.train(tmp_path, tmp_path, COMFY, steps, seed=0)
            weights.append(load_file(tmp_path / "t5.safetensors"))
    changed = [key for key in weights[0] if not torch.equal(weights[0][key], weights[1][key])]
    assert changed and "shared.weight" not in changed
    assert load_t5(tmp_path / "t5.safetensors").config.d_model == train_text.T5_CONFIG["d_model"]


def test_the_shipped_t5_says_at_a_placeholder_where_its_subject_stands(world):
    """Without this no training of DreamO can bind: one linear map must find the place, for names it has not seen."""
    weights = mini_world.WEIGHTS
    t5, rows = load_t5(weights / "t5.safetensors"), load_file(weights / "dreamo.safetensors")
    prompts = T5Prompts(COMFY / "text_encoders" / "t5_tokenizer", t5.config.vocab_size, mini_world.TEXT_TOKENS)
    table = rows["dreamo_t5_embedding.weight"].float()
    rng, pool = np.random.default_rng(0), np.argwhere(world.trained)
    features, sides = [], []
    for _ in range(300):
        scene = scenes.random_scene(world, rng, pool, 2, styled=0)
        tokens = prompts(scene.text(placeholders=True))
        inputs = t5_inputs(t5.shared.weight, table, torch.tensor([tokens.ids]))
        out = t5(inputs_embeds=inputs).last_hidden_state[0]
        for side, number in zip((-1.0, 1.0), scene.numbers, strict=True):
            features.append(torch.cat([out[tokens.placeholders[number]], torch.ones(1)]))
            sides.append(side)
    features, sides = torch.stack(features), torch.tensor(sides)
    found = torch.linalg.lstsq(features[:400], sides[:400, None]).solution
    assert ((features[400:] @ found)[:, 0].sign() == sides[400:]).float().mean() > 0.95

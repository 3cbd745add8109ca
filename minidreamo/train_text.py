"""Teach the mini world's T5 to read, on text alone: which words belong together, and where their subject stands.

    python -m minidreamo.train_text CACHE_DIR WEIGHTS_DIR TOKENIZERS [--steps 3000]

FLUX.1's T5 has read a great deal before any picture; pictures alone do not teach a small one the order of words (a
base trained end to end could not say which of two subjects was left). For each token of "a fox from …", three small
heads that are thrown away must say the place of the subject, its name and the word after "from", which is any word of
the vocabulary: so a new word there, as a placeholder is one, is read as well. Goes on from WEIGHTS_DIR/t5.safetensors
if that is there; the table of words stays as it is.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import T5Config, T5EncoderModel, T5TokenizerFast

from dreamo_core.training.encoders import load_t5

from . import art, scenes
from .store import save_half

T5_CONFIG = {
    "vocab_size": 32128, "d_model": 64, "d_ff": 128, "d_kv": 16, "num_heads": 4, "num_layers": 2,
    "feed_forward_proj": "gated-gelu", "dropout_rate": 0.0,
}  # fmt: skip
BATCH = 128
RATE = 3e-3
MARKED = 0.7
"""Share of names that are followed by "from" and a word."""
LENGTHS = 24, 41
"""Tokens a prompt is padded to, from and below; longer ones stay longer."""
PLACES = 9
"""Left, middle or right, at the top, middle or bottom."""


@dataclass(frozen=True)
class Reading:
    """A batch of prompts and what is to be read in them.

    Attributes:
        ids: (b, t) tokens, 0 for padding.
        phrase: (b, t) number of the phrase that a token belongs to, −1 for none.
        places: (p,) of the phrases' subjects.
        names: (p, t) bool over the tokens of the phrase's own prompt: its name.
        subjects: (p,) rows of the art.
        rows: (p,) the prompt of each phrase.
        marks: (p,) token id of the word after "from", 0 without one.
    """

    ids: torch.Tensor
    phrase: torch.Tensor
    places: torch.Tensor
    names: torch.Tensor
    subjects: torch.Tensor
    rows: torch.Tensor
    marks: torch.Tensor


def place_of(subject: scenes.Subject) -> int:
    """0 to 8, row by row."""
    column, row = ((c > scenes.MIDDLE[0] - 1) + (c > scenes.MIDDLE[1]) for c in subject.centre)
    return 3 * row + column


class Prompts:
    """Random prompts of the mini world, the n-th batch always the same."""

    def __init__(self, world: art.Art, tokenizer: T5TokenizerFast, seed: int):
        self.world, self.tokenizer, self.seed = world, tokenizer, seed
        self.pool = np.argwhere(world.trained)
        pieces = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
        self.words = [(piece[1:], id) for piece, id in pieces if piece[0] == "▁" and piece[1:].isalpha()]

    def __getitem__(self, number: int) -> Reading:
        rng = np.random.default_rng((self.seed, number))
        texts, spans, places, subjects, marks = [], [], [], [], []
        for row in range(BATCH):
            count = int(rng.choice([1, 2, 3], p=[0.25, 0.6, 0.15]))
            scene = scenes.random_scene(self.world, rng, self.pool, count, styled=0)
            picks = [self.words[rng.integers(len(self.words))] if rng.random() < MARKED else None for _ in range(count)]
            texts.append(scene.prompt.format(*(f" from {pick[0]}" if pick else "" for pick in picks)))
            end = 0
            for subject, pick in zip(scene.subjects, picks, strict=True):
                name = self.world.names[subject.name]
                start = texts[-1].index(scenes.article(name), end) + len(scenes.article(name)) - len(name)
                end = start + len(name) + (len(f" from {pick[0]}") if pick else 0)
                spans.append((row, start, start + len(name), end))
                places.append(place_of(subject))
                subjects.append(subject.name)
                marks.append(pick[1] if pick else 0)
        # T5 sees the padding, as in the host, and there is more or less of it.
        encoded = self.tokenizer(texts, padding=True, return_offsets_mapping=True, return_tensors="pt")
        more = (0, max(0, int(rng.integers(*LENGTHS)) - encoded["input_ids"].shape[1]))
        ids = nn.functional.pad(encoded["input_ids"], more)
        begins, ends = nn.functional.pad(encoded["offset_mapping"], (0, 0, *more)).unbind(-1)
        phrase, names = torch.full(begins.shape, -1), []
        for number, (row, start, name_end, end) in enumerate(spans):
            # A token's offsets may begin with the space before its word.
            within = (ends[row] > start) & (ends[row] <= end) & (ends[row] > begins[row])
            phrase[row, within] = number
            names.append(within & (ends[row] <= name_end))
        rows = torch.tensor([span[0] for span in spans])
        places, subjects, marks = map(torch.tensor, (places, subjects, marks))
        return Reading(ids, phrase, places, torch.stack(names), subjects, rows, marks)


class Reader(nn.Module):
    """The heads: place, name and word after "from" of every token of a phrase."""

    def __init__(self, width: int):
        super().__init__()
        self.place = nn.Linear(width, PLACES)
        self.name, self.mark = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, features: torch.Tensor, shared: torch.Tensor, reading: Reading):
        """Losses by what is read, and the share of tokens read rightly.

        Names and words are told apart from all others in the batch by the product with their rows of T5's table.
        """
        inside = reading.phrase >= 0
        own, tokens = reading.phrase[inside], features[inside]
        rows = shared[reading.ids[reading.rows]]
        named = (rows * reading.names[..., None]).sum(1) / reading.names.sum(1, keepdim=True)
        marks, mark = reading.marks.unique(return_inverse=True)
        logits = {
            "place": (self.place(tokens), reading.places[own]),
            "name": (self.name(tokens) @ named.T, own),
            "mark": (self.mark(tokens) @ shared[marks].T, mark[own]),
        }
        # One subject may stand in several prompts of the batch: then any of them is right.
        same = reading.subjects[own][:, None] == reading.subjects
        scores, _ = logits["name"]
        losses = {key: cross_entropy(*logits[key]) for key in ("place", "mark")}
        losses["name"] = (scores.logsumexp(1) - scores.masked_fill(~same, -torch.inf).logsumexp(1)).mean()
        right = {key: (values.argmax(1) == wanted).float().mean() for key, (values, wanted) in logits.items()}
        right["name"] = same[torch.arange(len(own)), scores.argmax(1)].float().mean()
        return losses, right


def train(cache: Path, weights: Path, tokenizers: Path, steps: int, seed: int) -> None:
    torch.manual_seed(seed)
    path = weights / "t5.safetensors"
    t5 = load_t5(path) if path.exists() else T5EncoderModel(T5Config(**T5_CONFIG))
    t5.train().requires_grad_(True)
    t5.shared.requires_grad_(False)
    reader = Reader(T5_CONFIG["d_model"])
    prompts = Prompts(art.load(cache), T5TokenizerFast.from_pretrained(tokenizers / "text_encoders/t5_tokenizer"), seed)
    learned = [p for p in t5.parameters() if p.requires_grad] + list(reader.parameters())
    optimizer = torch.optim.AdamW(learned, RATE, betas=(0.9, 0.98), weight_decay=0.0)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = RATE * min(1, (step + 1) / 100, 2 * (1 - step / steps))
        reading = prompts[step]
        features = t5(input_ids=reading.ids).last_hidden_state
        losses, right = reader(features, t5.shared.weight, reading)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0:
            print(
                f"step {step + 1} " + " ".join(f"{k} {losses[k]:.3f} ({v:.3f})" for k, v in right.items()), flush=True
            )
    state = {key: value for key, value in t5.state_dict().items() if "embed_tokens" not in key}
    save_half(state, path, {"config": json.dumps(T5_CONFIG), "steps": str(steps), "seed": str(seed)})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("cache", "weights", "tokenizers"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train(arguments.cache, arguments.weights, arguments.tokenizers, arguments.steps, arguments.seed)

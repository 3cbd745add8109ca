"""T5 and CLIP-L as FLUX.1 uses them, with DreamO's trainable placeholder tokens among T5's inputs."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizerFast, T5Config, T5EncoderModel, T5TokenizerFast

from ..text.tokens import add_placeholders

_MARK = re.compile(r"\s*(\bfrom\s+)?\[(ref#\d|res)\]")


def without_placeholders(prompt: str) -> str:
    """The same prompt for the half of training that has none: "a fox from [ref#1]" becomes "a fox"."""
    return _MARK.sub("", prompt).strip()


@dataclass(frozen=True)
class Tokens:
    """A prompt as T5 ids, where an id of `vocabulary + n` stands for placeholder n.

    Attributes:
        ids: padded with 0.
        placeholders: position in `ids` of each placeholder that occurs, by its number (0 is `[ref#1]`).
    """

    ids: tuple[int, ...]
    placeholders: dict[int, int]


class T5Prompts:
    """Tokenizes prompts with placeholders, which are new tokens of the tokenizer as in the reference implementation.

    Args:
        folder: of a T5 tokenizer.
        vocabulary: rows of T5's own table.
        length: prompts are padded to this many tokens, as the host does.
    """

    def __init__(self, folder: Path, vocabulary: int, length: int):
        self.tokenizer = T5TokenizerFast.from_pretrained(folder)
        self.numbers = {id: n for n, id in enumerate(add_placeholders(self.tokenizer).values())}
        self.vocabulary = vocabulary
        self.length = length

    def __call__(self, prompt: str) -> Tokens:
        """Longer prompts than `length` stay longer."""
        ids = self.tokenizer(prompt)["input_ids"]
        places: dict[int, int] = {}
        for place, id in enumerate(ids):
            if id in self.numbers:
                places.setdefault(self.numbers[id], place)
        ids = [self.vocabulary + self.numbers[id] if id in self.numbers else id for id in ids]
        return Tokens(tuple(ids + [0] * (self.length - len(ids))), places)


def t5_inputs(shared: torch.Tensor, placeholders: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Rows of T5's table for (b, l) ids, and of the placeholder table for ids beyond it: (b, l, d)."""
    plain = nn.functional.embedding(ids.clamp(max=len(shared) - 1), shared)
    rows = nn.functional.embedding((ids - len(shared)).clamp(min=0), placeholders).to(plain.dtype)
    return torch.where((ids >= len(shared))[..., None], rows, plain)


def _load(path: Path, config_class: type, model_class: type, dtype: torch.dtype) -> nn.Module:
    """A transformers model from a folder, or from one safetensors file whose metadata has its config as JSON."""
    if path.is_dir():
        model = model_class.from_pretrained(path, torch_dtype=dtype, use_safetensors=True)
    else:
        with safe_open(path, "pt") as file:
            config = (file.metadata() or {}).get("config")
            if config is None:
                raise ValueError(f"{path} has no `config` in its metadata; give a transformers folder instead.")
            state = {key: file.get_tensor(key).to(dtype) for key in file.keys()}
        model = model_class(config_class(**json.loads(config))).to(dtype)
        # CLIP's files say `text_model.`, as older transformers do and the host expects; newer transformers do not.
        if not any(key.startswith("text_model.") for key in model.state_dict()):
            state = {key.removeprefix("text_model."): value for key, value in state.items()}
        missing, unexpected = model.load_state_dict(state, strict=False)
        missing = [key for key in missing if "embed_tokens" not in key]
        if missing or unexpected:
            raise ValueError(f"{path} does not fit its config: missing {missing[:3]}, unexpected {unexpected[:3]}.")
    return model.eval().requires_grad_(False)


def load_t5(path: Path, dtype: torch.dtype = torch.float32) -> T5EncoderModel:
    """Raises ValueError if the file has no config or does not fit it."""
    return _load(path, T5Config, T5EncoderModel, dtype)


def load_clip(path: Path) -> CLIPTextModel:
    """Raises ValueError if the file has no config or does not fit it."""
    return _load(path, CLIPTextConfig, CLIPTextModel, torch.float32)


def clip_ids(tokenizer: CLIPTokenizerFast, prompts: list[str]) -> torch.Tensor:
    """(b, 77) CLIP token ids."""
    return tokenizer(prompts, padding="max_length", truncation=True, max_length=77, return_tensors="pt")["input_ids"]

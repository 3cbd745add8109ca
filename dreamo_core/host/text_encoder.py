"""The host's text encoders: FLUX.1's CLIP with DreamO's placeholders in its T5.

The host takes embedding tensors where it takes token ids (that is how textual inversions work), so nothing in the
encoder changes: the tokenizer of a cloned CLIP hands out the trained rows for the ten placeholders.
"""

from __future__ import annotations

import copy
import functools
import math
import numbers
import weakref
from collections.abc import Iterator
from typing import Any

import torch

from ..run.keys import PLACEHOLDERS_KEY, PROMPT_TOKENS_KEY
from ..sequence.embeddings import Embeddings
from ..text.placeholders import PLACEHOLDERS, PlaceholderPositions, check_spelling, mentions_placeholder, positions_from
from ..text.tokens import add_placeholders

_T5 = "t5xxl"
_LENGTH_OPTION = "t5xxl_min_length"
"""What the host's T5TokenizerOptions sets on a CLIP."""

RELEASED_LENGTH = 512
"""To how many tokens the released DreamO, UNO and USO pad T5; FLUX has no mask for padding, so it is seen. The host's
own is 256."""

_ROUNDING = 0.1
"""Part of a token's features by which two encodings of a prompt may differ; another word changes them far more."""

_PAD = 0
"""T5's."""


# Copying a tokenizer takes a third of a second, more than encoding does. Copies go with the CLIP they are of.
_extended: weakref.WeakKeyDictionary[Any, tuple[Any, dict[str, int]]] = weakref.WeakKeyDictionary()


@functools.cache
def _mixed(mixin: type, kind: type) -> type:
    return type(f"{mixin.__name__}{kind.__name__}", (mixin, kind), {})


def _copy_as(mixin: type, instance: Any) -> Any:
    """A shallow copy of a host object that `mixin` goes in front of; the object and its class stay as they are."""
    kind = type(instance) if isinstance(instance, mixin) else _mixed(mixin, type(instance))
    made = object.__new__(kind)
    made.__dict__.update(instance.__dict__)
    return made


class PlaceholderTokenizer:
    """Goes in front of the host's T5 tokenizer class: each placeholder becomes one token, which is its trained row.

    Where text is cut around a placeholder: `text.tokens`.

    Attributes:
        placeholder_rows: the (d,) row of each placeholder, by name.
        placeholder_ids: id that `tokenizer` (a copy of the host's, extended) gives each placeholder.
    """

    def tokenize_with_weights(self, text: str, *args: Any, **kwargs: Any) -> list[list[tuple]]:
        check_spelling(text)
        rows = {self.placeholder_ids[name]: row for name, row in self.placeholder_rows.items()}

        def swap(token: Any) -> Any:
            return rows.get(token, token) if isinstance(token, numbers.Integral) else token

        sections = super().tokenize_with_weights(text, *args, **kwargs)
        check_weights(sections)
        return [[(swap(token), *rest) for token, *rest in section] for section in sections]

    def positions(self, sections: list[list[tuple]]) -> PlaceholderPositions:
        """Where the placeholders are in what `tokenize_with_weights` gave, counted in tokens the encoder will see."""
        return positions_from(self._found(sections))

    def _found(self, sections: list[list[tuple]]) -> Iterator[tuple[str, int]]:
        names = {id(row): name for name, row in self.placeholder_rows.items()}
        width = next(iter(self.placeholder_rows.values())).shape[-1]
        start = 0
        for section in sections:
            at, misfits = start, 0
            for token, *_ in section:
                if not torch.is_tensor(token):
                    at += 1
                elif token.shape[-1] == width:
                    if id(token) in names:
                        yield names[id(token)], at
                    at += token.numel() // width
                else:
                    # A textual inversion made for another encoder: the host drops it here and pads at the end.
                    misfits += token.numel() // token.shape[-1]
            start = at + misfits

    def names(self, sections: list[list[tuple]]) -> tuple[str | int, ...]:
        """As `token_names`, with placeholders by their own."""
        return token_names(sections, {id(row): name for name, row in self.placeholder_rows.items()})


def check_weights(sections: list[list[tuple]]) -> None:
    """Raise ValueError if a part of the prompt has a weight that makes the picture NaN."""
    wrong = [weight for section in sections for _, weight, *_ in section if not math.isfinite(weight)]
    if wrong:
        raise ValueError(
            f"A part of the prompt has the weight {wrong[0]}; write a number, such as (word:1.2), or escape the "
            "brackets: \\(word:nan\\)."
        )


def token_names(sections: list[list[tuple]], rows: dict[int, str] | None = None) -> tuple[str | int, ...]:
    """What a prompt's tokens are, to compare two prompts by: ids, the padding at the end left out.

    Args:
        sections: as a tokenizer of the host gives them.
        rows: names of embeddings that stand for tokens, by their identity; others are all alike.
    """
    rows = rows or {}
    tokens = [token for section in sections for token, *_ in section]
    names = [rows.get(id(token), "embedding") if torch.is_tensor(token) else int(token) for token in tokens]
    while names and names[-1] == _PAD:
        names.pop()
    return tuple(names)


class PlaceholderClip:
    """Goes in front of the host's CLIP class: puts on every conditioning it encodes what its tokens are."""

    def clone(self, *args: Any, **kwargs: Any) -> Any:
        return _copy_as(PlaceholderClip, super().clone(*args, **kwargs))

    def encode_from_tokens_scheduled(self, tokens: dict[str, Any], *args: Any, **kwargs: Any) -> list:
        conditioning = super().encode_from_tokens_scheduled(tokens, *args, **kwargs)
        t5 = getattr(self.tokenizer, _T5, None)
        # Another node may have put its own tokenizer there since.
        if not isinstance(t5, PlaceholderTokenizer):
            return conditioning
        positions, found = t5.positions(tokens[_T5]), {PROMPT_TOKENS_KEY: t5.names(tokens[_T5])}
        if positions.tokens:
            found[PLACEHOLDERS_KEY] = positions
        return [[cond, {**values, **found}] for cond, values in conditioning]


def _t5_width(clip: Any) -> int:
    """Size of the T5's input embeddings; ValueError if this CLIP has no T5 that placeholders can be given to."""
    # Through getattr all the way: some packs hand around stand-ins for a CLIP that runs elsewhere.
    model = getattr(clip, "cond_stage_model", clip)
    encoder, tokenizer = getattr(model, _T5, None), getattr(getattr(clip, "tokenizer", None), _T5, None)
    if encoder is None or not hasattr(getattr(tokenizer, "tokenizer", None), "add_tokens"):
        raise ValueError(
            f"DreamO placeholders are tokens of T5 and this CLIP ({type(model).__name__}) has none; "
            "load clip_l and t5xxl with DualCLIPLoader, type flux."
        )
    return encoder.transformer.get_input_embeddings().weight.shape[-1]


def _with_placeholders(t5: Any, rows: torch.Tensor) -> PlaceholderTokenizer:
    """The host's T5 tokenizer with placeholders, which it hands out as their rows (10, d)."""
    t5 = _copy_as(PlaceholderTokenizer, t5)
    if t5.tokenizer not in _extended:
        copied = copy.deepcopy(t5.tokenizer)
        _extended[t5.tokenizer] = copied, add_placeholders(copied)
    t5.tokenizer, t5.placeholder_ids = _extended[t5.tokenizer]
    t5.placeholder_rows = dict(zip(PLACEHOLDERS, rows.unbind(), strict=True))
    return t5


def with_placeholders(clip: Any, embeddings: Embeddings, source: str) -> Any:
    """A clone of the host's CLIP that understands placeholders; CLIP-L still sees them as plain text.

    Args:
        clip: FLUX.1's text encoders, from any loader.
        embeddings: with placeholder rows (10, d), d the width of the CLIP's T5.
        source: name of the file they are from, for messages.

    Raises:
        ValueError: no rows, no T5, or they do not fit each other.
    """
    width = _t5_width(clip)
    if embeddings.placeholders is None:
        raise ValueError(f"{source} has no T5 rows for placeholders like [ref#1]; choose dreamo.safetensors.")
    if embeddings.placeholders.shape[-1] != width:
        raise ValueError(
            f"The placeholder rows of {source} are {embeddings.placeholders.shape[-1]} wide but this CLIP's T5 is "
            f"{width} wide; DreamO was trained with T5-XXL (t5xxl_fp16 or a quantized form of it)."
        )
    t5 = _with_placeholders(clip.tokenizer.t5xxl, embeddings.placeholders)

    clip = _copy_as(PlaceholderClip, clip.clone())
    clip.tokenizer = copy.copy(clip.tokenizer)
    clip.tokenizer.t5xxl = t5
    return clip


def with_t5_length(clip: Any, length: int) -> Any:
    """A clone of the host's CLIP whose T5 pads prompts to at least `length` tokens; words stay where they were.

    The same CLIP for a length of 0, and where T5TokenizerOptions in front has said one already: that one counts.
    """
    if length <= 0 or _LENGTH_OPTION in getattr(clip, "tokenizer_options", {}):
        return clip
    clip = clip.clone()
    clip.set_tokenizer_option(_LENGTH_OPTION, length)
    return clip


def encode_prompt(
    clip: Any, embeddings: Embeddings, source: str, prompt: str, guidance: float, t5_length: int = 0
) -> list:
    """The conditioning of a prompt, as the host's CLIPTextEncodeFlux makes it with one prompt for both encoders.

    Placeholder rows are only asked for if the prompt has placeholders. `t5_length`: see `with_t5_length`.

    Raises:
        ValueError: a misspelt placeholder, or as `with_placeholders`.
    """
    check_spelling(prompt)
    if mentions_placeholder(prompt):
        clip = with_placeholders(clip, embeddings, source)
    if not math.isfinite(guidance):
        raise ValueError(f"The guidance must be a finite number, got {guidance}.")
    clip = with_t5_length(clip, t5_length)
    tokens = clip.tokenize(prompt)
    check_weights(tokens.get(_T5, []))
    known = {"guidance": guidance, PROMPT_TOKENS_KEY: token_names(tokens.get(_T5, []))}
    return clip.encode_from_tokens_scheduled(tokens, add_dict=known)


def prompt_sections(clip: Any, text: str, placeholders: bool) -> tuple[list[list[tuple]], tuple[str | int, ...]]:
    """A prompt as T5's tokens in the host's form, and their names.

    Args:
        clip: FLUX.1's text encoders.
        placeholders: whether `[ref#1]` in it is a placeholder, also where this CLIP does not know that.
    """
    t5 = clip.tokenizer.t5xxl
    if placeholders and not isinstance(t5, PlaceholderTokenizer):
        t5 = _with_placeholders(t5, torch.zeros(len(PLACEHOLDERS), _t5_width(clip)))
        sections = t5.tokenize_with_weights(text)
    else:
        sections = clip.tokenize(text)[_T5]
    return sections, t5.names(sections) if isinstance(t5, PlaceholderTokenizer) else token_names(sections)


def is_encoding_of(clip: Any, cond: torch.Tensor, values: dict[str, Any], text: str) -> bool:
    """Whether a part of a conditioning was encoded from this text.

    Our own encoders leave the tokens on it. For others the text is encoded once more, and may differ by rounding.

    Args:
        cond, values: the part; cond (1, t, c), to which other nodes may have appended.
    """
    recorded = values.get(PROMPT_TOKENS_KEY)
    if recorded is not None:
        return prompt_sections(clip, text, any(name in PLACEHOLDERS for name in recorded))[1] == recorded
    fresh = clip.encode_from_tokens(clip.tokenize(text)).float()
    if cond.ndim != 3 or cond.shape[1] < fresh.shape[1] or cond.shape[2] != fresh.shape[2]:
        return False
    off = (cond[:1, : fresh.shape[1]].to(fresh) - fresh).norm(dim=-1) / fresh.norm(dim=-1).clamp(min=1e-6)
    return bool(off.max() < _ROUNDING)


def used_placeholders(conditioning: list) -> set[str]:
    """Names of the placeholders in any part of a conditioning."""
    return {name for _, values in conditioning if (at := values.get(PLACEHOLDERS_KEY)) for name in at.names}

"""The host's text encoders: FLUX.1's CLIP with DreamO's placeholders in its T5.

The host takes embedding tensors where it takes token ids (that is how textual inversions work), so nothing in the
encoder changes: the tokenizer of a cloned CLIP hands out the trained rows for the ten placeholders.
"""

from __future__ import annotations

import copy
import functools
import numbers
from collections.abc import Iterator
from typing import Any

import torch

from ..run.keys import PLACEHOLDERS_KEY
from ..sequence.embeddings import Embeddings
from ..text.placeholders import PLACEHOLDERS, PlaceholderPositions, check_spelling, mentions_placeholder, positions_from
from ..text.tokens import add_placeholders

_T5 = "t5xxl"


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


class PlaceholderClip:
    """Goes in front of the host's CLIP class: puts the placeholders' positions on every conditioning it encodes."""

    def clone(self, *args: Any, **kwargs: Any) -> Any:
        return _copy_as(PlaceholderClip, super().clone(*args, **kwargs))

    def encode_from_tokens_scheduled(self, tokens: dict[str, Any], *args: Any, **kwargs: Any) -> list:
        conditioning = super().encode_from_tokens_scheduled(tokens, *args, **kwargs)
        t5 = getattr(self.tokenizer, _T5, None)
        # Another node may have put its own tokenizer there since.
        positions = t5.positions(tokens[_T5]) if isinstance(t5, PlaceholderTokenizer) else None
        if positions is None or not positions.tokens:
            return conditioning
        return [[cond, {**values, PLACEHOLDERS_KEY: positions}] for cond, values in conditioning]


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
    t5 = _copy_as(PlaceholderTokenizer, clip.tokenizer.t5xxl)
    t5.tokenizer = copy.deepcopy(t5.tokenizer)
    t5.placeholder_ids = add_placeholders(t5.tokenizer)
    t5.placeholder_rows = dict(zip(PLACEHOLDERS, embeddings.placeholders.unbind(), strict=True))

    clip = _copy_as(PlaceholderClip, clip.clone())
    clip.tokenizer = copy.copy(clip.tokenizer)
    clip.tokenizer.t5xxl = t5
    return clip


def encode_prompt(clip: Any, embeddings: Embeddings, source: str, prompt: str, guidance: float) -> list:
    """The conditioning of a prompt, as the host's CLIPTextEncodeFlux makes it with one prompt for both encoders.

    Placeholder rows are only asked for if the prompt has placeholders.

    Raises:
        ValueError: a misspelt placeholder, or as `with_placeholders`.
    """
    check_spelling(prompt)
    if mentions_placeholder(prompt):
        clip = with_placeholders(clip, embeddings, source)
    return clip.encode_from_tokens_scheduled(clip.tokenize(prompt), add_dict={"guidance": guidance})


def used_placeholders(conditioning: list) -> set[str]:
    """Names of the placeholders in any part of a conditioning."""
    return {name for _, values in conditioning if (at := values.get(PLACEHOLDERS_KEY)) for name in at.names}

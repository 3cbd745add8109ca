"""Words of a prompt among the tokens of the host's CLIP text encoders (SD 1.5, SDXL)."""

from __future__ import annotations

from typing import Any

import torch

from ..text.words import SPACE, TextPiece, positions_of

_END = "</w>"
"""How CLIP's vocabulary spells the end of a word."""


def _sections(clip: Any, text: str) -> dict[str, tuple[Any, list[list[tuple]]]]:
    """The tokenizer of each CLIP of a text encoder and its sections of a prompt, by the host's short name."""
    found = {}
    if clip.tokenizer is None:
        return {}
    for name, sections in clip.tokenize(text).items():
        tokenizer = getattr(clip.tokenizer, f"clip_{name}", None)
        if tokenizer is not None and hasattr(tokenizer, "inv_vocab"):
            found[name] = (tokenizer, sections)
    return found


def _spelling(tokenizer: Any, token: Any) -> str | None:
    if torch.is_tensor(token):
        # An embedding in place of a token has no spelling; the host gives each of its vectors a place of its own.
        return None
    marks = (tokenizer.start_token, tokenizer.end_token, tokenizer.pad_token)
    return None if token in marks else tokenizer.inv_vocab.get(int(token), "").replace(_END, SPACE)


def clip_pieces(clip: Any, text: str) -> dict[str, list[TextPiece]]:
    """The prompt as the tokens of each CLIP ("l", "g"), in the order they enter cross-attention; {} if it has none.

    A prompt longer than one section of 77 tokens goes on in the next; weights such as (word:1.2) leave no token.
    """
    return {
        name: [TextPiece(_spelling(tokenizer, token)) for section in sections for token, *_ in section]
        for name, (tokenizer, sections) in _sections(clip, text).items()
    }


def as_spelled(clip: Any, phrase: str) -> str:
    """A phrase as CLIP's tokens spell it: "ice-cream" is three words to it."""
    pieces = next(iter(clip_pieces(clip, phrase.replace("(", r"\(").replace(")", r"\)")).values()), [])
    return "".join(piece.spelling for piece in pieces if piece.spelling is not None).replace(SPACE, " ").strip()


def word_positions(clip: Any, text: str, phrase: str) -> tuple[int, ...]:
    """Positions in cross-attention of every token that spells a part of the phrase, wherever it stands.

    Both CLIPs of SDXL are looked at: a place counts if either has the word there.

    Raises:
        ValueError: not a CLIP, or the prompt does not have the phrase as whole words.
    """
    pieces = clip_pieces(clip, text)
    if not pieces:
        raise ValueError(
            f"Target words are looked up among CLIP's tokens and this text encoder "
            f"({type(clip.cond_stage_model).__name__}) has no CLIP; load that of an SDXL or SD 1.5 checkpoint."
        )
    spelled, found, missing = as_spelled(clip, phrase), set(), None
    for of_one in pieces.values():
        try:
            found.update(positions_of(of_one, spelled))
        except ValueError as error:
            missing = error
    if not found:
        raise ValueError(
            f"The prompt has no {phrase!r}, so the subject has no place in it; write its target word as it stands in "
            f"the prompt: {text.strip()!r}."
        ) from missing
    return tuple(sorted(found))

"""Which text tokens a subject's word is: RealCustom++'s "real word", and DreamO's placeholders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SPACE = "▁"
"""How T5's vocabulary spells the space in front of a word."""


@dataclass(frozen=True)
class TextPiece:
    """A token of the prompt; `spelling` as in T5's vocabulary, None for an embedding that has none."""

    spelling: str | None


def positions_of(pieces: Sequence[TextPiece], phrase: str) -> tuple[int, ...]:
    """Positions of every token that spells a part of the phrase, wherever the phrase stands as whole words.

    Case does not count, nor does a plural's "s" that the phrase leaves out.

    Raises:
        ValueError: an empty phrase, or the prompt does not have it.
    """
    wanted = " ".join(phrase.split()).casefold()
    if not wanted:
        raise ValueError("A word to look for is empty.")
    text, owners = "", []
    for at, piece in enumerate(pieces):
        spelling = "\0" if piece.spelling is None else piece.spelling.replace(SPACE, " ").casefold()
        text += spelling
        owners += [at] * len(spelling)
    found: dict[int, None] = {}
    start = text.find(wanted)
    while start >= 0:
        end = start + len(wanted)
        tail = text[end : end + 1] == "s" and not text[end + 1 : end + 2].isalnum()
        if not text[start - 1 : start].isalnum() and (tail or not text[end : end + 1].isalnum()):
            found.update(dict.fromkeys(owners[start:end]))
        start = text.find(wanted, start + 1)
    if not found:
        raise ValueError(f"The prompt has no {phrase.strip()!r}; write the word as it stands in the prompt.")
    return tuple(found)


def words_for_references(pieces: Sequence[TextPiece], lines: str) -> tuple[tuple[int, ...], ...]:
    """Positions for each reference from one line each; an empty line leaves that reference without a word.

    Raises:
        ValueError: no line says anything, or a word is not in the prompt.
    """
    phrases = [line.strip() for line in lines.rstrip().splitlines()]
    if not any(phrases):
        raise ValueError("No word is given; write one line for each reference, the first for reference 1.")
    return tuple(positions_of(pieces, phrase) if phrase else () for phrase in phrases)

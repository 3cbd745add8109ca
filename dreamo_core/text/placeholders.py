"""Placeholders: `[ref#1]` in the prompt means reference 1 (DreamO, section 3.3, "placeholder strategy").

T5 gets ten new tokens for them. Here is what can be said about them without a text encoder: their names, what counts
as a misspelling, and where they end up.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from ..flux import MAX_REFERENCES

RESULT = "[res]"


def reference_name(index: int) -> str:
    """The placeholder of reference `index`, from 1."""
    return f"[ref#{index}]"


PLACEHOLDERS = (*(reference_name(i) for i in range(1, MAX_REFERENCES + 1)), RESULT)
"""In the order of the trained rows."""

# What someone may have meant as a placeholder. With a `#` there is no doubt, so there even the bracket may be missing.
_ATTEMPT = re.compile(
    r"""\\?\[(?P<content>\s*(?:
        (?P<word>ref|res|reference(?=\s*\\?[\#\d]))
        \s* (?P<hash>\\?\#)? \s* (?P<number>-?\d{0,9}) (?(hash)[^\[\]\n]*|\s*\\?)
    ))(?P<close>\]?)(?(hash)|(?:(?<=\])|(?=\s*$)))""",
    re.IGNORECASE | re.VERBOSE | re.MULTILINE,
)


@dataclass(frozen=True)
class PlaceholderPositions:
    """Where the placeholders of a prompt are among its conditioning's tokens.

    Attributes:
        tokens: pairs of a placeholder's name and its positions, ascending, in the order of first appearance.
            Positions count from 0 at the conditioning's first token, as it left the encoder (padding comes after).
    """

    tokens: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.tokens)

    def of(self, name: str) -> tuple[int, ...]:
        """Positions of one placeholder; empty if the prompt does not have it."""
        return dict(self.tokens).get(name, ())


def shift_in_model(context_length: int, text_length: int) -> int:
    """How far the positions of words move from a conditioning's tokens to the text tokens inside the model.

    Nodes that lengthen a conditioning (style models, Conditioning Concat) append, which moves nothing. Patches
    inside the model (`post_input`, as USO's style tokens) prepend, which moves everything by what they add.

    Args:
        context_length: number of tokens of the conditioning that this model call was given (`c_crossattn`).
        text_length: number of text tokens in the model's attention.

    Raises:
        ValueError: the model has fewer text tokens than it was given, so positions mean nothing any more.
    """
    if text_length < context_length:
        raise ValueError(
            f"The model has {text_length} text tokens but its conditioning has {context_length}: another node "
            "removes some, so the words of the references cannot be found; bypass that node."
        )
    return text_length - context_length


def positions_from(found: Iterable[tuple[str, int]]) -> PlaceholderPositions:
    """Collect (name, position) pairs, in ascending order of position."""
    tokens: dict[str, tuple[int, ...]] = {}
    for name, position in found:
        tokens[name] = (*tokens.get(name, ()), position)
    return PlaceholderPositions(tuple(tokens.items()))


COMMENTS = "prompt nodes in which # begins a comment take it as \\#, all others as it is"


def _right_spelling(word: str, number: str) -> str:
    if word.lower() == "res":
        return f"write {RESULT}"
    if number in ("", "-"):
        return f"write one of [ref#1] to [ref#{MAX_REFERENCES}]"
    if 1 <= int(number) <= MAX_REFERENCES:
        return f"write {reference_name(int(number))}"
    return f"references are numbered [ref#1] to [ref#{MAX_REFERENCES}]"


def check_spelling(prompt: str) -> None:
    r"""Raise ValueError if the prompt has something that is nearly a placeholder, and say what would be right.

    `\[ref#1\]` is meant as text and passes. Full-width characters count as the plain ones, as in T5's own tokenizer.
    """
    for match in _ATTEMPT.finditer(unicodedata.normalize("NFKC", prompt)):
        given, content = match.group(), match["content"]
        escaped = (given.startswith("\\"), content.endswith("\\"))
        if all(escaped) or given in PLACEHOLDERS:
            continue
        content = content.strip("\\ ")
        if any(escaped):
            raise ValueError(
                f"In the prompt, {given} has one escaped bracket; write [{content}] for the placeholder "
                f"or \\[{content}\\] for plain text."
            )
        hint = _right_spelling(match["word"], match["number"] or "")
        if not match["close"]:
            given, hint = given[: match.end("number") - match.start()], f"its closing bracket is missing, {hint}"
            content = given[1:]
        if match["hash"] in (None, "\\#"):
            hint += f" ({COMMENTS})"
        raise ValueError(
            f"In the prompt, {given} is no DreamO placeholder: {hint}. If it is meant as text, write \\[{content}\\]."
        )


def mentions_placeholder(prompt: str) -> bool:
    """Whether a prompt that passed `check_spelling` has a placeholder."""
    text = unicodedata.normalize("NFKC", prompt)
    return any(name in text for name in PLACEHOLDERS)


def check_against_references(used: Iterable[str], count: int) -> None:
    """Raise ValueError if a prompt names a reference that a chain of `count` references does not have."""
    used = set(used)
    missing = [name for name in PLACEHOLDERS[count:MAX_REFERENCES] if name in used]
    if missing:
        have = {0: "has no reference", 1: "has only reference 1"}.get(count, f"has only references 1 to {count}")
        raise ValueError(
            f"The prompt names {' and '.join(missing)} but the DreamO chain {have}; "
            "add references to the chain or change the placeholder."
        )


def note_on_unnamed(used: Iterable[str], count: int) -> str:
    """A line for the user about the references that no placeholder names, which is allowed; empty if there are none."""
    used = set(used)
    unnamed = [name for name in PLACEHOLDERS[: min(count, MAX_REFERENCES)] if name not in used]
    if not unnamed:
        return ""
    return f"Not named in the prompt: {', '.join(unnamed)}. That is allowed; the model decides where to use them."

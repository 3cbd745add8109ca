"""Style references: the sentence their prompt begins with, and with what they go together."""

from __future__ import annotations

from collections.abc import Sequence

STYLE_TRIGGER = "generate a same style image."
"""DreamO's training data has it."""


def has_style_trigger(prompt: str) -> bool:
    """Whether the prompt already begins with the sentence; case, spaces and the full stop do not count."""
    return " ".join(prompt.lower().split()).startswith(STYLE_TRIGGER.rstrip("."))


def with_style_trigger(prompt: str) -> str:
    """The prompt with the sentence in front, once."""
    return prompt if has_style_trigger(prompt) else f"{STYLE_TRIGGER} {prompt}".strip()


def note_on_style(tasks: Sequence[str], dreamo: bool) -> str:
    """A line for the user where a style reference is used as its model was not trained for; empty if all is well.

    Args:
        tasks: of the chain's references.
        dreamo: whether DreamO's embeddings go with it; without them it is read by UNO or USO.
    """
    styles = sum(task == "style" for task in tasks)
    if styles and not dreamo:
        return (
            "A style reference is in the chain, but UNO has no style task and USO takes styles through the host's "
            "USOStyleReference; here it acts like any other picture."
        )
    if styles and styles < len(tasks):
        return (
            "DreamO was not trained to combine a style reference with others; expect the style to be weak. "
            "USOStyleReference is another way to give the style."
        )
    return ""

"""The sentence that a prompt with a style reference begins with (DreamO's training data has it)."""

from __future__ import annotations

STYLE_TRIGGER = "generate a same style image."


def has_style_trigger(prompt: str) -> bool:
    """Whether the prompt already begins with the sentence; case, spaces and the full stop do not count."""
    return " ".join(prompt.lower().split()).startswith(STYLE_TRIGGER.rstrip("."))


def with_style_trigger(prompt: str) -> str:
    """The prompt with the sentence in front, once."""
    return prompt if has_style_trigger(prompt) else f"{STYLE_TRIGGER} {prompt}".strip()

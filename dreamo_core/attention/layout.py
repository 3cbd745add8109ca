"""Where the parts of the joint sequence are, and which block is at work."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Block:
    """Which block is running: `kind` is "double" or "single", `index` counts from 0 within its kind."""

    kind: str
    index: int


@dataclass(frozen=True)
class Layout:
    """Where things are among the keys of a joint attention: `[text, image, …, reference, reference, …]`.

    Attributes:
        text: number of text tokens.
        image: number of tokens of the noisy image, which follow the text.
        references: first and one-past-last key of each active reference. Where a reference's own tokens did not run
            and keys of an earlier step stand in for them, its span lies beyond the queries.
    """

    text: int
    image: int
    references: tuple[tuple[int, int], ...]

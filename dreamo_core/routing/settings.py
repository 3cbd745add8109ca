"""What can be set about routing, and which blocks the maps are read from."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..attention.bias import FORMS
from ..attention.layout import Block

SOURCES = ("references", "words", "both")
MASKS_FROM = ("previous step", "extra first pass", "pass without references")

_PART = re.compile(r"(all|double|single)(?:\s+(\d+)(?:\s*-\s*(\d+))?)?", re.IGNORECASE)


def chosen_blocks(text: str, double: int, single: int) -> tuple[Block, ...]:
    """The blocks that a description names, in the order they run.

    Args:
        text: parts separated by commas: `all`, `double`, `single`, `double 7`, `single 10-20`; counted from 0.
        double, single: how many of each kind the model has.

    Raises:
        ValueError: not such a description, or it names no block of this model.
    """
    found: set[Block] = set()
    for part in text.split(","):
        match = _PART.fullmatch(part.strip())
        if match is None or (match[1].lower() == "all" and match[2]):
            raise ValueError(
                f"Routing cannot read the blocks {part.strip()!r}; write all, double, single, or parts such as "
                "double 5-18, single 0-9."
            )
        first = int(match[2]) if match[2] else 0
        last = int(match[3] or match[2]) if match[2] else max(double, single)
        for kind, count in (("double", double), ("single", single)):
            if match[1].lower() in ("all", kind):
                found.update(Block(kind, i) for i in range(first, min(last + 1, count)))
    if not found:
        raise ValueError(
            f"Routing is to read the blocks {text!r}, but the model has {double} double and {single} single blocks, "
            "counted from 0; choose some of these."
        )
    return tuple(sorted(found, key=lambda block: (block.kind, block.index)))


@dataclass(frozen=True)
class RoutingSettings:
    """Everything that `DreamO Routing` sets; travels in a model's `transformer_options`.

    Attributes:
        strength: scales the bias log w; 0 leaves attention alone, bit for bit.
        source: what answers where a reference belongs: its own tokens (Eq. 2), its words in the prompt, or both.
        gamma: largest part of the image that one reference may take by itself.
        threshold: tokens whose response is below this part of the largest one are dropped, 0 to 1.
        soft: inside its region a reference acts in proportion to its response; otherwise fully.
        smoothing: how much of a map comes from tokens that look alike, 0 to 1.
        memory: weight of earlier steps in the average over steps, 0 to below 1.
        stop: part of the run's steps after which regions stay as they are.
        outside: influence outside of its region, 0 to 1.
        text_influence: w for text queries, 0 to 1; 1 leaves them alone.
        reference_influence: w for the queries of other references, 0 to 1; 1 leaves them alone.
        masks_from: one of `MASKS_FROM`.
        blocks: see `chosen_blocks`. All by default: the routing loss (Eq. 3) trains every layer, and reading them all
            costs less than can be measured against the blocks themselves (`benchmarks/routing_cost.py`).
        form: "low-rank", "dense", or "auto" for low-rank wherever the kernel takes the wider heads.

    Raises:
        ValueError: a value out of its range.
    """

    strength: float = 1.0
    source: str = "references"
    gamma: float = 0.2
    threshold: float = 0.0
    soft: bool = True
    smoothing: float = 0.3
    memory: float = 0.5
    stop: float = 0.5
    outside: float = 0.0
    text_influence: float = 1.0
    reference_influence: float = 1.0
    masks_from: str = "previous step"
    blocks: str = "all"
    form: str = "auto"

    def __post_init__(self) -> None:
        ranges = {"strength": 2.0, "stop": 1.0, "threshold": 1.0, "smoothing": 1.0, "outside": 1.0}
        ranges |= {"text_influence": 1.0, "reference_influence": 1.0}
        for name, most in ranges.items():
            if not 0.0 <= getattr(self, name) <= most:
                raise ValueError(f"Routing's {name} must be from 0 to {most:g}, got {getattr(self, name)}.")
        if not 0.0 < self.gamma <= 1.0:
            raise ValueError(f"Routing's gamma is a part of the image, above 0 and up to 1, got {self.gamma}.")
        if not 0.0 <= self.memory < 1.0:
            raise ValueError(f"Routing's memory must be from 0 to below 1, got {self.memory}.")
        for name, choices in (("source", SOURCES), ("masks_from", MASKS_FROM), ("form", FORMS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"Routing's {name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}.")

"""What a benchmark is made of: cases (a prompt with references, drawn with some seeds) and where its data come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TEXT, IMAGE = "text", "image"
"""What a case may be scored for: how well the prompt is followed, how like the picture is to its references."""


@dataclass(frozen=True)
class Reference:
    """A reference picture.

    Attributes:
        path: the picture file.
        task: as of DreamO Reference: "subject", "identity", "try-on" or "style".
        keep: a mask file, white where the subject is, or None.
    """

    path: Path
    task: str = "subject"
    keep: Path | None = None


@dataclass(frozen=True)
class Case:
    """One prompt with its references.

    Attributes:
        id: letters, digits, `-` and `_`: the folder of its pictures.
        prompt: what is drawn; may have placeholders.
        text: the same in plain words, without placeholders and instructions: what text scores compare with.
        references: in the order of the chain.
        group: cases of one group are about the same subject; confidence intervals draw groups.
        scored: which of `TEXT` and `IMAGE` count here.
        more: what a scorer of its own needs to know.
    """

    id: str
    prompt: str
    text: str
    references: tuple[Reference, ...]
    group: str
    scored: frozenset[str] = frozenset({TEXT, IMAGE})
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Data:
    """Where the data are to be had.

    Attributes:
        where: address or description.
        licence: as its makers state it.
        known_from: who says so.
        layout: what the folder must look like, one line a path.
    """

    where: str
    licence: str
    known_from: str
    layout: tuple[str, ...]


@dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    Attributes:
        name: on the command line.
        title: for people.
        data: where its data come from.
        read: folder of the data to its cases.
        seeds: pictures a case, as in the paper.
        expected: how many cases and groups the paper has; where there are fewer, numbers do not compare.
        cut: what is scored of a picture and of its references (see `cut.py`), unless another is asked for.
        notes: where the protocol here is a choice of ours, because the paper does not say.
    """

    name: str
    title: str
    data: Data
    read: Callable[[Path], list[Case]]
    seeds: int
    expected: Mapping[str, int]
    cut: str = "none"
    notes: tuple[str, ...] = ()

    def shortfalls(self, cases: list[Case], seeds: int) -> list[str]:
        """Sentences on what is fewer than in the paper; empty if nothing is."""
        have = {"cases": len(cases), "groups": len({case.group for case in cases}), "seeds": seeds}
        wanted = {**self.expected, "seeds": self.seeds}
        return [
            f"{have[name]} of {count} {name}: these numbers do not compare with the paper's."
            for name, count in wanted.items()
            if have[name] < count
        ]

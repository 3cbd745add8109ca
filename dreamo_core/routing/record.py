"""What routing saw and did, step by step, for pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..sequence.positions import Grid


@dataclass(frozen=True, eq=False)
class RoutingStep:
    """One model call of one conditioning.

    Attributes:
        progress: part of the run's steps that was done before, 0 to 1.
        references: numbers of the references, from 1.
        maps: (r, b, h, w) averaged responses in [0, 1], on the CPU; 0 where none has been read.
        influence: (r, b, h, w) the w that acted in this call, in [0, 1].
        regions: (r, b, h, w) the w that the next call starts from.
    """

    progress: float
    references: tuple[int, ...]
    maps: torch.Tensor
    influence: torch.Tensor
    regions: torch.Tensor


@dataclass(frozen=True, eq=False)
class RoutingMaps:
    """What `DREAMO_ROUTING_MAPS` carries between nodes.

    Attributes:
        size: height and width of the picture in pixels.
        prompts: for each conditioning with references, its steps in order.
    """

    size: tuple[int, int]
    prompts: tuple[tuple[RoutingStep, ...], ...]

    def labels(self) -> list[str]:
        """A name for each reference of each conditioning, in the order of `last`."""
        many = len(self.prompts) > 1
        return [
            f"prompt {p}, reference {number}" if many else f"reference {number}"
            for p, steps in enumerate(self.prompts, start=1)
            for number in steps[-1].references
        ]

    def last(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The final maps and regions of all references: two of (r, b, h, w)."""
        ends = [steps[-1] for steps in self.prompts]
        return torch.cat([step.maps for step in ends]), torch.cat([step.regions for step in ends])


class Recorder:
    """Collects the steps of one run; made by who wants them and dropped with it.

    Only calls for the whole image are collected: those for an area or a tile have maps of another shape. If there are
    no others, the maps are empty ones.
    """

    def __init__(self) -> None:
        self._steps: dict[object, list[RoutingStep]] = {}
        self._parts: tuple[tuple[int, ...], int] | None = None

    def add(self, conditioning: object, step: RoutingStep) -> None:
        self._steps.setdefault(conditioning, []).append(step)

    def add_part(self, references: Sequence[int], samples: int) -> None:
        """A call for a part of the image, with these references and so many samples."""
        self._parts = (tuple(references), samples)

    @property
    def only_parts(self) -> bool:
        return self._parts is not None and not self._steps

    def maps(self, size: tuple[int, int]) -> RoutingMaps:
        if self.only_parts:
            references, samples = self._parts
            empty = torch.zeros(len(references), samples, 1, 1)
            return RoutingMaps(size, ((RoutingStep(0.0, references, empty, empty, empty),),))
        return RoutingMaps(size, tuple(tuple(steps) for steps in self._steps.values()))


def as_planes(values: torch.Tensor, grid: Grid) -> torch.Tensor:
    """(b, r, n) to (r, b, h, w) on the CPU."""
    return values.transpose(0, 1).unflatten(-1, grid).float().cpu()

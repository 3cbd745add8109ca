"""Strength along sampling and along the depth of the network, as presets.

What they are made of is known of the method (early steps decide the layout, late ones the detail), the numbers are
ours: starting points to try, not measured on released weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Curve:
    """Factors on a reference's strength.

    Attributes:
        time: (part of sampling, factor), rising; in between linear, before and behind constant; () for 1.
        depth: the same over the blocks, from the first (0) to the last (1).
    """

    time: Points = ()
    depth: Points = ()

    def factor(self, done: float, depth: float) -> float:
        """What strength is multiplied by, at a part of sampling and a part of the network, both 0 to 1."""
        return interpolated(self.time, done) * interpolated(self.depth, depth)


def interpolated(points: Sequence[tuple[float, float]], at: float) -> float:
    """The value of a polyline; 1 if it has no points."""
    if not points:
        return 1.0
    if at <= points[0][0]:
        return points[0][1]
    for (left, low), (right, high) in zip(points, points[1:], strict=False):
        if at <= right:
            return low + (high - low) * (at - left) / (right - left)
    return points[-1][1]


EVEN = "even"

CURVES = {
    EVEN: Curve(),
    "flexible face": Curve(time=((0.0, 0.4), (0.4, 1.0))),
    "style only": Curve(time=((0.2, 0.1), (0.5, 1.0)), depth=((0.3, 0.3), (0.5, 1.0))),
    "layout only": Curve(time=((0.25, 1.0), (0.5, 0.0))),
}

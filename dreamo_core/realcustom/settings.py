"""What can be set about finding masks."""

from __future__ import annotations

from dataclasses import dataclass

EACH_STEP, PREVIOUS_STEP = "each step", "previous step"
MASKS_FROM = (EACH_STEP, PREVIOUS_STEP)


@dataclass(frozen=True)
class MaskSource:
    """Which attention maps a mask is made of.

    Attributes:
        cross: layers whose cross-attention is read: "all", or "low" for the coarsest that has down and up blocks.
        own: layers whose self-attention refines it (Eq. 14): "none", "low", "high" for the finest, or "all".
        stretched: each layer's map is stretched to [0, 1] before they are averaged, and the average again.
        norm: masks are divided by their largest value (Eq. 15).
    """

    cross: str
    own: str
    stretched: bool
    norm: bool


SOURCES = {
    "released": MaskSource("all", "none", stretched=True, norm=False),
    "paper": MaskSource("low", "high", stretched=False, norm=True),
}


@dataclass(frozen=True)
class RealCustomSettings:
    """Everything that `RealCustom Apply` sets about masks.

    Attributes:
        source: see `SOURCES`; ablations make their own.
        masks_from: "each step": one more pass with the text alone in each step, its maps are this step's mask.
            "previous step": no more pass; the first step has no subjects.
        stop: part of the steps after which masks stay as they are; 12 of 25 steps as released.
        soft: inside its mask a subject acts in proportion to the map; otherwise fully.
        low_memory: keys and values of subjects are computed again in each call.

    Raises:
        ValueError: a value out of its range.
    """

    source: MaskSource = SOURCES["released"]
    masks_from: str = EACH_STEP
    stop: float = 0.48
    soft: bool = True
    low_memory: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.stop <= 1.0:
            raise ValueError(f"RealCustom's stop is a part of the steps, from 0 to 1, got {self.stop}.")
        if self.masks_from not in MASKS_FROM:
            raise ValueError(f"RealCustom's masks are from {' or '.join(MASKS_FROM)}, got {self.masks_from!r}.")

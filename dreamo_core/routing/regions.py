"""Regions by hand: a MASK says where a reference belongs, or where none does.

Rules where they meet:
- Several regions of one reference add up (the larger value counts).
- A reference with regions acts in them only. With `auto` its place inside them is found while sampling.
- Where painted regions of different references overlap, both act.
- A reference without a region of its own that is routed automatically steps aside for painted ones; one that is not
  routed is left alone.
- Background (reference 0) comes last: there no reference acts at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ..flux import MAX_REFERENCES
from ..sequence.coverage import coverage
from ..sequence.positions import Grid
from ..text.placeholders import PlaceholderPositions, reference_name

BACKGROUND = 0


@dataclass(frozen=True, eq=False)
class Region:
    """A painted region.

    Attributes:
        reference: its number in the chain, from 1, or `BACKGROUND`.
        mask: (b, h, w) in [0, 1], any size; sample s of a batch uses mask s modulo b.
        hard: a token is in or out, by half of its area; otherwise the covered part is the influence.
        auto: the reference finds its place inside; otherwise it fills the region.
    """

    reference: int
    mask: torch.Tensor
    hard: bool = False
    auto: bool = False

    def same_as(self, other: Region) -> bool:
        return (self.reference, self.hard, self.auto) == (other.reference, other.hard, other.auto) and (
            self.mask is other.mask or torch.equal(self.mask, other.mask)
        )


@dataclass(frozen=True, eq=False)
class RoutingConditioning:
    """What routing needs to know and only the conditioning can say.

    Attributes:
        regions: painted regions.
        words: per reference, the positions among the conditioning's text tokens that name it; may be empty.
        area: (h, w, y, x) in latent pixels where the host gives this conditioning only a part of the image.
        text: number of text tokens among which the words were found, None where nobody has said.
    """

    regions: tuple[Region, ...] = ()
    words: tuple[tuple[int, ...], ...] = ()
    area: tuple[int, int, int, int] | None = None
    text: int | None = None

    def __eq__(self, other: object) -> bool:
        """By value: conditionings that compare equal may share one batch in the host."""
        if not isinstance(other, RoutingConditioning):
            return False
        if (self.words, self.area, self.text) != (other.words, other.area, other.text):
            return False
        pairs = zip(self.regions, other.regions, strict=False)
        return len(self.regions) == len(other.regions) and all(a.same_as(b) for a, b in pairs)

    __hash__ = None

    def named_by(self, placeholders: PlaceholderPositions | None, count: int) -> RoutingConditioning:
        """The same, with `[ref#i]` of the prompt as the word of each of `count` references that has no other."""
        if placeholders is None:
            return self
        given = self.words + ((),) * (count - len(self.words))
        named = [placeholders.of(reference_name(i)) for i in range(1, count + 1)]
        return replace(self, words=tuple(word or name for word, name in zip(given, named, strict=True)))

    def words_moved(self, by: int) -> RoutingConditioning:
        """The same for a model call whose text has `by` more tokens in front."""
        return replace(self, words=tuple(tuple(at + by for at in word) for word in self.words)) if by else self

    def in_area(self, area: Sequence[int] | None) -> RoutingConditioning:
        """The same for a part of the image; words do not depend on it."""
        return replace(self, area=tuple(area)) if area is not None and self.regions else self

    def check(self, count: int) -> None:
        """Raise ValueError if something is said about a reference that a conditioning of `count` does not have."""
        wanted = max([len(self.words), *(region.reference for region in self.regions)], default=0)
        if wanted > count:
            raise ValueError(
                f"There is a region or a word for reference {wanted}, but the conditioning carries {count} "
                "reference(s); add it to the DreamO chain or change its number."
            )


def feathered(mask: torch.Tensor, radius: float) -> torch.Tensor:
    """Soften the edge of (b, h, w) over about `radius` pixels to each side: a Gaussian of half that width."""
    if radius <= 0:
        return mask
    reach = int(radius + 0.5) or 1
    steps = torch.arange(-reach, reach + 1, dtype=mask.dtype, device=mask.device)
    weights = torch.exp(-0.5 * (steps / (radius / 2)) ** 2)
    weights = weights / weights.sum()
    planes = mask.unsqueeze(1)
    for dim, kernel in ((3, weights.view(1, 1, 1, -1)), (2, weights.view(1, 1, -1, 1))):
        # Outside the picture a region goes on as at its edge, also where it is narrower than the radius.
        at = torch.arange(-reach, planes.shape[dim] + reach, device=mask.device).clamp(0, planes.shape[dim] - 1)
        planes = torch.nn.functional.conv2d(planes.index_select(dim, at), kernel)
    return planes.squeeze(1).clamp(0, 1)


def make_region(reference: int, mask: torch.Tensor, feather: float, hard: bool, auto: bool) -> Region:
    """A region from a MASK as it comes.

    Raises:
        ValueError: no MASK, values that are not finite, or a number that is no reference's.
    """
    if not 0 <= reference <= MAX_REFERENCES:
        raise ValueError(f"References are numbered 1 to {MAX_REFERENCES}, and 0 is the background; got {reference}.")
    mask = mask.unsqueeze(0) if mask.ndim == 2 else mask
    if mask.ndim != 3 or min(mask.shape) < 1:
        raise ValueError(f"A region is a MASK of shape (batch, height, width), got {tuple(mask.shape)}.")
    if not torch.isfinite(mask).all():
        raise ValueError("The region's mask has values that are NaN or infinite; check the node that made it.")
    return Region(reference, feathered(mask.float().clamp(0, 1), feather), hard, auto)


def on_grid(
    region: Region,
    grid: Grid,
    area: tuple[int, int, int, int] | None = None,
    full: tuple[int, int] | None = None,
) -> torch.Tensor:
    """The part of each image token that a region covers: (b, n) in [0, 1]; 0 or 1 if it is hard.

    Args:
        grid: rows and columns of the image tokens.
        area: (h, w, y, x) of the part of the image that these tokens are, in latent pixels of `full`.
        full: height and width of the whole image's latent.
    """
    mask = region.mask
    if area is not None and full is not None:
        (h, w, y, x), rows, columns = area, mask.shape[1] / full[0], mask.shape[2] / full[1]
        top, left = int(y * rows), int(x * columns)
        mask = mask[:, top : max(top + 1, round((y + h) * rows)), left : max(left + 1, round((x + w) * columns))]
    covered = coverage(mask, grid).flatten(1)
    return (covered >= 0.5).to(covered) if region.hard else covered


@dataclass(frozen=True, eq=False)
class Painted:
    """Regions on the token grid of one model call, each (b, n) in [0, 1].

    Attributes:
        fixed: by reference number, where it is to act.
        auto: by reference number, where it may find its place.
        background: where no reference acts, or None.
        confines: whether any of them leaves out a part of the image.
    """

    fixed: dict[int, torch.Tensor]
    auto: dict[int, torch.Tensor]
    background: torch.Tensor | None
    confines: bool = True


def paint(
    regions: Sequence[Region],
    grid: Grid,
    samples: int,
    device: torch.device,
    area: tuple[int, int, int, int] | None = None,
    full: tuple[int, int] | None = None,
) -> Painted:
    """Collect regions for a batch of `samples` on the image's token grid."""
    fixed: dict[int, torch.Tensor] = {}
    auto: dict[int, torch.Tensor] = {}
    for region in regions:
        covered = on_grid(region, grid, area, full)
        covered = covered[torch.arange(samples, device=covered.device) % covered.shape[0]]
        into = auto if region.auto and region.reference != BACKGROUND else fixed
        earlier = into.get(region.reference)
        into[region.reference] = covered if earlier is None else torch.maximum(earlier, covered)
    background = fixed.pop(BACKGROUND, None)
    acting = [*fixed.values(), *auto.values()]
    confines = any(bool((region < 1).any()) for region in acting) or (
        background is not None and bool((background > 0).any())
    )
    move = lambda parts: {number: region.to(device) for number, region in parts.items()}  # noqa: E731
    return Painted(move(fixed), move(auto), None if background is None else background.to(device), confines)


def influence(
    numbers: Sequence[int],
    painted: Painted,
    found: dict[int, torch.Tensor],
    routed: Sequence[bool],
    outside: float,
    shape: tuple[int, int],
    device: torch.device,
) -> torch.Tensor:
    """w_i(q) for every reference and image token by the rules above: (b, r, n) in [0, 1].

    Args:
        numbers: of the references, in the order of the result.
        painted: regions by hand.
        found: by reference number, the region found while sampling (b, n); those inside `auto` regions included.
        routed: for each reference, whether it is routed automatically where it has no region.
        outside: influence that is left outside of a region.
        shape: b and n.
        device: of the result.
    """
    result = []
    for number, is_routed in zip(numbers, routed, strict=True):
        w = torch.ones(shape, device=device)
        by_hand = [painted.fixed[number]] if number in painted.fixed else []
        if number in painted.auto:
            # Until there is a map the whole painted region stands for what will be found in it.
            by_hand.append(found.get(number, painted.auto[number]))
        if by_hand:
            w = torch.stack(by_hand).amax(0)
        elif is_routed:
            w = found.get(number, w)
            for other, region in painted.fixed.items():
                if other != number:
                    w = w * (1 - region)
        if by_hand or is_routed:
            w = outside + (1 - outside) * w
        if painted.background is not None:
            w = w * (1 - painted.background)
        result.append(w)
    return torch.stack(result, dim=1)

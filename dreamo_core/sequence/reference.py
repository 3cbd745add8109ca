"""One reference, from the chain of nodes to what rides on a conditioning."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from ..attention.curve import EVEN
from ..flux import MAX_REFERENCES
from ..pictures.picture import TASKS, Picture
from ..text.placeholders import PlaceholderPositions
from .embeddings import Embeddings
from .percent import check_range, in_range
from .positions import token_grid
from .pruning import Foreground, foreground_of


@dataclass(frozen=True, eq=False)
class Reference:
    """One link of a `DREAMO_REFERENCES` chain.

    Attributes:
        picture: what the model sees.
        latent: (1, 16, h/8, w/8) as the VAE gives it; the host scales it when sampling.
        task: one of `TASKS`.
        strength: influence on attention, 0 (as if absent) to 2; 1 leaves attention alone.
        start_percent, end_percent: the part of sampling in which the reference takes part, 0 to 1.
    """

    picture: Picture
    latent: torch.Tensor
    task: str
    strength: float = 1.0
    start_percent: float = 0.0
    end_percent: float = 1.0

    def __post_init__(self) -> None:
        if self.task not in TASKS or not 0.0 <= self.strength < math.inf:
            raise ValueError(
                f"A reference's task must be one of {', '.join(TASKS)} and its strength a number of at least 0, got "
                f"{self.task!r} and {self.strength}."
            )
        check_range(self.start_percent, self.end_percent)


References = tuple[Reference, ...]


def extend(chain: References, reference: Reference) -> References:
    """The chain with one more reference; ValueError past the nine that DreamO has index rows for."""
    if len(chain) >= MAX_REFERENCES:
        raise ValueError(f"DreamO takes at most {MAX_REFERENCES} references and the chain already has {len(chain)}.")
    return (*chain, reference)


@dataclass(frozen=True)
class ReferenceSetting:
    """How one reference acts; the numbers are those of `Reference`.

    Attributes:
        foreground: which of its tokens show the subject; None when the whole picture is meant.
        detail: the deviation of its keys from their mean is multiplied by this, 0 to 3.
        curve: one of `attention.curve.CURVES`: strength along sampling and depth.
    """

    index: int
    strength: float = 1.0
    start_percent: float = 0.0
    end_percent: float = 1.0
    foreground: Foreground | None = None
    task: str = "subject"
    detail: float = 1.0
    curve: str = EVEN

    @property
    def always(self) -> bool:
        """Whether the reference has no range: what it does is the same at all noise levels."""
        return self.start_percent <= 0.0 and self.end_percent >= 1.0

    def is_active(self, sigma: Callable[[], float], percent_to_sigma: Callable[[float], float]) -> bool:
        """Whether the reference takes part at this noise level, which is asked for only if that decides it."""
        if self.strength <= 0.0 or self.always:
            return self.strength > 0.0
        return in_range(sigma(), self.start_percent, self.end_percent, percent_to_sigma)


@dataclass(frozen=True, eq=False)
class ReferenceConditioning:
    """The entry that `DreamOApply` and `DreamOReferenceControl` put beside a conditioning's reference latents.

    Attributes:
        settings: one per reference latent, in order.
        embeddings: task and index tables, or None for plain references without them.
        placeholders: where `[ref#i]` are among the conditioning's tokens, or None if the prompt has none; inside the
            model, `placeholders.shift_in_model` says how far they moved.
        latents: (1, 16, h, w) each, as the VAE gave them; what rides on the conditioning may be changed by others.
            Empty for references of stock nodes, which have no other place than that.
        noise_row: whether the noise task row is added whole whatever the references do, also where there are none.
    """

    settings: tuple[ReferenceSetting, ...]
    embeddings: Embeddings | None = None
    placeholders: PlaceholderPositions | None = None
    latents: tuple[torch.Tensor, ...] = ()
    noise_row: bool = False

    def __eq__(self, other: object) -> bool:
        """By value: conditionings that compare equal may share one batch in the host."""
        if not isinstance(other, ReferenceConditioning):
            return False
        if self.settings != other.settings or self.placeholders != other.placeholders:
            return False
        if len(self.latents) != len(other.latents):
            return False
        if not all(a is b or torch.equal(a, b) for a, b in zip(self.latents, other.latents, strict=True)):
            return False
        if self.noise_row != other.noise_row:
            return False
        if self.embeddings is None or other.embeddings is None:
            return self.embeddings is other.embeddings
        return self.embeddings.same_as(other.embeddings)

    __hash__ = None

    def covering(self, count: int) -> ReferenceConditioning:
        """The same for that many reference latents, where others have put some behind those it knows."""
        if self.latents or count <= len(self.settings):
            return self
        more = (ReferenceSetting(i) for i in range(len(self.settings) + 1, count + 1))
        return replace(self, settings=(*self.settings, *more))

    def active(self, sigma: Callable[[], float], percent_to_sigma: Callable[[float], float]) -> list[int]:
        """Positions, from 0, of the references that take part at this noise level."""
        return [n for n, setting in enumerate(self.settings) if setting.is_active(sigma, percent_to_sigma)]


def setting_for(index: int, reference: Reference) -> ReferenceSetting:
    """Describe one reference for the model patch, under its index row."""
    keep = reference.picture.keep
    foreground = None if keep is None else foreground_of(keep, token_grid(*reference.latent.shape[-2:]))
    return ReferenceSetting(
        index, reference.strength, reference.start_percent, reference.end_percent, foreground, reference.task
    )


def conditioning_for(
    references: References,
    embeddings: Embeddings | None,
    placeholders: PlaceholderPositions | None = None,
    noise_row: bool = False,
) -> ReferenceConditioning:
    """Describe a chain for the model patch; reference i of the chain gets index row i, from 1."""
    settings = tuple(setting_for(i, r) for i, r in enumerate(references, start=1))
    latents = tuple(r.latent for r in references)
    return ReferenceConditioning(settings, embeddings, placeholders, latents, noise_row)

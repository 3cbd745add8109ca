"""How much of a reference's detail counts: deviations of its keys from their mean, scaled (GRAG, 2510.24657)."""

from __future__ import annotations

from collections.abc import Sequence

from .hook import AttentionHook


class Detail(AttentionHook):
    """Keys of reference i become mean + detail_i · (key − mean), the mean over its tokens, head by head.

    Above 1 what tells its tokens apart counts more, below 1 less; at 0 all its tokens are looked at alike. The group
    relative attention guidance of the paper, on keys as attention sees them: normed and rotated.
    """

    def __init__(self, details: Sequence[float]):
        self.details = tuple(details)

    def needed(self) -> bool:
        return any(detail != 1.0 for detail in self.details)

    def keys(self, block, layout, q, k, v):
        k = k.clone()
        for (start, end), detail in zip(layout.references, self.details, strict=True):
            if detail != 1.0:
                own = k[:, :, start:end]
                mean = own.mean(dim=2, keepdim=True)
                k[:, :, start:end] = mean + detail * (own - mean)
        return layout, k, v

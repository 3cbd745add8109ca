"""Task and index embeddings: what tells the transformer which tokens are noise and which reference is which.

DreamO adds them to the image tokens right after `img_in` (DreamO, section 3.1, "condition embedding").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..flux import MAX_REFERENCES

REFERENCE_TASK, NOISE_TASK = 0, 1
"""Rows of the task embedding."""

TASK_KEY = "dreamo_task_embedding.weight"
INDEX_KEY = "dreamo_idx_embedding.weight"
PLACEHOLDER_KEY = "dreamo_t5_embedding.weight"

PLACEHOLDER_ROWS = 10
"""`[ref#1]` … `[ref#9]`, `[res]`: the last ten rows of the stored T5 embedding."""


@dataclass(frozen=True, eq=False)
class Embeddings:
    """The three small tables of a DreamO checkpoint.

    Attributes:
        task: (2, c); row 0 for references, row 1 for the noisy image.
        index: (10, c); reference i uses row i, from 1.
        placeholders: (10, d) T5 input embeddings of the placeholder tokens, or None if the file has none.
    """

    task: torch.Tensor
    index: torch.Tensor
    placeholders: torch.Tensor | None = None

    @property
    def hidden_size(self) -> int:
        return self.task.shape[1]

    def same_as(self, other: Embeddings | None) -> bool:
        """Whether both would change the image tokens in the same way."""
        if other is self:
            return True
        return other is not None and torch.equal(self.task, other.task) and torch.equal(self.index, other.index)

    def rows_for(
        self, image_tokens: int, references: Sequence[tuple[int, int]], like: torch.Tensor, noise_scale: float = 1.0
    ) -> torch.Tensor:
        """The vectors to add to `[image tokens, reference tokens…]`: (l, c), in the dtype and on the device of `like`.

        Args:
            image_tokens: number of tokens of the noisy image.
            references: for each reference in sequence, its index (1 to 9) and its number of tokens.
            like: the image tokens these rows will be added to.
            noise_scale: weight of the noise task row; 1 as trained.
        """
        noise = self.task[NOISE_TASK] if noise_scale == 1.0 else self.task[NOISE_TASK] * noise_scale
        rows = [noise] + [self.task[REFERENCE_TASK] + self.index[i] for i, _ in references]
        lengths = [image_tokens] + [length for _, length in references]
        table = torch.stack(rows).to(device=like.device, dtype=like.dtype)
        return table.repeat_interleave(torch.tensor(lengths, device=like.device), dim=0, output_size=sum(lengths))


def read_embeddings(tensors: dict[str, torch.Tensor], source: str) -> Embeddings:
    """Take the DreamO embeddings out of a checkpoint's tensors.

    Args:
        tensors: at least the task and index tables under their released names.
        source: the file's name, for messages.

    Raises:
        ValueError: a table is missing, has the wrong shape, or holds values that are not finite.
    """
    missing = [key for key in (TASK_KEY, INDEX_KEY) if key not in tensors]
    if missing:
        raise ValueError(
            f"{source} has no {' and no '.join(missing)}, so it is not a DreamO file with embeddings; "
            "choose dreamo.safetensors or embedding.safetensors."
        )
    task, index = tensors[TASK_KEY], tensors[INDEX_KEY]
    if task.ndim != 2 or task.shape[0] != 2:
        raise ValueError(f"{source}: {TASK_KEY} has shape {tuple(task.shape)}, expected (2, hidden size).")
    if index.ndim != 2 or index.shape != (MAX_REFERENCES + 1, task.shape[1]):
        expected = (MAX_REFERENCES + 1, task.shape[1])
        raise ValueError(f"{source}: {INDEX_KEY} has shape {tuple(index.shape)}, expected {expected}.")
    placeholders = tensors.get(PLACEHOLDER_KEY)
    if placeholders is not None:
        if placeholders.ndim != 2 or placeholders.shape[0] < PLACEHOLDER_ROWS:
            raise ValueError(
                f"{source}: {PLACEHOLDER_KEY} has shape {tuple(placeholders.shape)}, "
                f"expected at least {PLACEHOLDER_ROWS} rows."
            )
        placeholders = placeholders[-PLACEHOLDER_ROWS:]
    for name, table in ((TASK_KEY, task), (INDEX_KEY, index), (PLACEHOLDER_KEY, placeholders)):
        if table is not None and not torch.isfinite(table).all():
            raise ValueError(f"{source}: {name} holds NaN or infinite values; the file is damaged, download it again.")
    return Embeddings(task, index, placeholders)

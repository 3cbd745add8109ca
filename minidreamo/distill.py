"""Guidance put into the weights: what two passes with a guidance scale draw, one pass is taught to draw.

Trained on few samples, the mini world follows its references timidly, and classifier-free guidance between with and
without references makes up for it, at twice the cost. DreamO is released with such a distillation too
(`dreamo_cfg_distill`; Meng et al. 2023). The teacher is the model that the run begins with.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from dreamo_core.training.batches import Batch
from dreamo_core.training.config import Run
from dreamo_core.training.engine import MakeObjective, Objective, build_model
from dreamo_core.training.export import load_released
from dreamo_core.training.features import Encoders
from dreamo_core.training.model import DreamOTransformer


class Guided(Objective):
    """The losses, with the teacher's guided velocity in the place of Eq. 1's.

    Args:
        scale: w in v₀ + w (v − v₀), where v₀ is the teacher's velocity for the same prompt without references.
    """

    def __init__(self, model: DreamOTransformer, encoders: Encoders, run: Run, scale: float):
        super().__init__(model, encoders.t5, run)
        teacher = build_model(run, encoders.t5.config.d_model)
        load_released(teacher, run.model.begin)
        self.teacher = Objective(teacher.eval().requires_grad_(False), encoders.t5, run)
        self.scale = scale

    @torch.no_grad()
    def wanted(self, batch: Batch, noisy: torch.Tensor) -> torch.Tensor:
        """(b, 16, h, w)."""
        guidance = self.run.times.guidance
        alone = replace(batch, references=(), kept=None, positions=batch.positions[:, :0])
        with_references = self.teacher.look(batch, noisy, batch.times, guidance).velocity.float()
        without = self.teacher.look(alone, noisy, batch.times, guidance).velocity.float()
        return without + self.scale * (with_references - without)


def guided(scale: float) -> MakeObjective:
    """For `dreamo_core.training.engine.train`; the run must say what it begins with."""
    return partial(Guided, scale=scale)

"""Pictures drawn while training: what the weights make of fixed lines of a manifest, and where references answer.

Nothing here touches the state of training: noise has its own generator, and no gradient is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from ..flux import LATENT_SCALE, LATENT_SHIFT
from .batches import Batch
from .config import Run
from .features import Autoencoder, FeatureStore, picture_tensor
from .manifest import Sample
from .model import Prediction

CELL = 128
"""Pictures smaller than this are enlarged, so that a person can look at them."""
HEAT = (255, 70, 20)
OUTLINE = (255, 255, 255)

Look = Callable[[Batch, torch.Tensor, torch.Tensor, float], Prediction]


def one_sample(features: dict[str, torch.Tensor], references: int, seed: int) -> Batch:
    """A batch of one line with its placeholders, all of its reference tokens, and noise by seed."""
    target = features["target"][None].float()
    noise = torch.randn(target.shape, generator=torch.Generator().manual_seed(seed))
    masks = [features[f"mask{n}"] for n in range(references)]
    positions = features["positions"].long()[None]
    return Batch(
        target, noise, torch.ones(1), tuple(features[f"reference{n}"][None].float() for n in range(references)), None,
        torch.stack(masks)[None] if masks else torch.zeros(1, 0, target.shape[-1] * target.shape[-2] // 4), positions,
        features["t5_ids"].long()[None], features["t5"][None].float(), torch.ones(1, dtype=torch.bool),
        features["pooled"][None].float(), references, int((positions >= 0).sum()),
    )  # fmt: skip


def times_from_noise(steps: int, shift: float) -> list[float]:
    """steps + 1 times from 1 to 0, evenly spaced before the shift that training's times have."""
    even = [1 - n / steps for n in range(steps + 1)]
    return [shift * t / (1 + (shift - 1) * t) for t in even]


@torch.no_grad()
def euler(look: Look, batch: Batch, steps: int, shift: float, guidance: float) -> tuple[torch.Tensor, torch.Tensor]:
    """From noise to a picture.

    Returns:
        (b, 16, h, w) latents as the transformer sees them, on the CPU, and (k, b, r, n) response maps of the k probed
        blocks, the mean over steps; k is 0 where there are no references.
    """
    latent, maps = batch.noise, []
    times = times_from_noise(steps, shift)
    for now, then in zip(times, times[1:], strict=False):
        out = look(batch, latent, torch.full((len(latent),), now), guidance)
        latent = latent + (then - now) * out.velocity.float().cpu()
        if out.maps is not None:
            maps.append(out.maps.float().cpu())
    return latent, torch.stack(maps).mean(0) if maps else torch.zeros(0, len(latent), 0, 0)


def to_bytes(pixels: torch.Tensor) -> np.ndarray:
    """(3, h, w) in −1 to 1 to (h, w, 3) bytes."""
    return ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().movedim(0, -1).numpy()


def outline(mask: torch.Tensor, width: int) -> torch.Tensor:
    """(h, w) True on the inner border of a mask, `width` pixels wide."""
    outside = (mask < 0.5).float()[None]
    grown = functional.max_pool2d(functional.pad(outside, (width,) * 4, value=1), 2 * width + 1, stride=1)[0]
    return (grown > 0.5) & (mask >= 0.5)


def response_picture(picture: np.ndarray, response: torch.Tensor, mask: torch.Tensor | None) -> np.ndarray:
    """A response map over its picture, with the border of the true mask.

    Args:
        picture: (h, w, 3) bytes.
        response: (n,) of the image's tokens; its mean and less is shown as nothing, its greatest as full colour.
        mask: (h, w) in 0 to 1, None where it is not known.
    """
    height, width = picture.shape[:2]
    heat = response.reshape(1, 1, height // 16, width // 16)
    heat = ((heat - heat.mean()) / (heat.max() - heat.mean()).clamp(min=1e-9)).clamp(min=0)
    heat = functional.interpolate(heat, (height, width), mode="nearest")[0, 0, :, :, None].numpy()
    grey = picture.mean(-1, keepdims=True) * 0.6
    out = grey * (1 - heat) + np.array(HEAT) * heat
    if mask is not None:
        out[outline(mask, max(1, height // 96)).numpy()] = OUTLINE
    return out.round().astype(np.uint8)


def grid(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Pictures in rows on white, enlarged to their row's highest, and that to at least CELL."""
    lines = []
    for row in rows:
        highest = max(picture.shape[0] for picture in row)
        height = highest * -(-CELL // highest)
        cells = []
        for picture in row:
            scale = height // picture.shape[0]
            large = picture.repeat(scale, 0).repeat(scale, 1)
            cells.append(np.pad(large, ((2, height - large.shape[0] + 2), (2, 2), (0, 0)), constant_values=255))
        lines.append(np.concatenate(cells, 1))
    width = max(line.shape[1] for line in lines)
    padded = [np.pad(line, ((0, 0), (0, width - line.shape[1]), (0, 0)), constant_values=255) for line in lines]
    return np.concatenate(padded)


class Samples:
    """Draws the first lines of a manifest."""

    def __init__(self, run: Run, store: FeatureStore, autoencoder: Autoencoder):
        self.settings, self.shift, self.seed = run.samples, run.times.shift, run.seed
        self.store, self.autoencoder = store, autoencoder
        self.lines: list[Sample] = store.samples[: run.samples.count]

    @torch.no_grad()
    def draw(self, look: Look) -> dict[str, np.ndarray]:
        """(h, w, 3) bytes by name.

        `samples`: a row a line: its references, its target, what was drawn. `response maps`: a row a line with a cell
        a reference: where it answered (Eq. 2, the mean over the steps) over the target, in it the true mask's border.
        """
        drawn, answers = [], []
        for number, line in enumerate(self.lines):
            batch = one_sample(self.store[number], len(line.references), self.seed + number)
            latent, maps = euler(look, batch, self.settings.steps, self.shift, self.settings.guidance)
            shown = [to_bytes(picture_tensor(path)[0]) for path in (*(r.image for r in line.references), line.target)]
            drawn.append([*shown, to_bytes(self.autoencoder.decode(latent / LATENT_SCALE + LATENT_SHIFT)[0])])
            if len(maps):
                chosen = maps.mean(0)[0] if self.settings.block < 0 else maps[self.settings.block, 0]
                masks = [self._mask(r.mask) for r in line.references]
                answers.append([response_picture(shown[-1], r, m) for r, m in zip(chosen, masks, strict=True)])
        return {"samples": grid(drawn)} | ({"response maps": grid(answers)} if answers else {})

    @staticmethod
    def _mask(path) -> torch.Tensor | None:
        if path is None:
            return None
        with Image.open(path) as picture:
            return torch.from_numpy(np.array(picture.convert("L"))).float() / 255

"""A judge of pictures that has nothing to do with the model that drew them: which subject, where, on which ground.

    python3 scripts/host.py exec -m minidreamo.classifier [--art CACHE_DIR] [--out FILE] [--seed 0]

Two small convolutional networks. `Subjects` sees a subject's 48 × 48 place in a picture and gives a feature; trained to
name the subject whichever vendor drew it, on whichever ground, so that its cosine is a likeness of subjects rather than
of pixels. `Layout` sees the whole picture and gives the places, the ground's colour and its kind. They learn from the
drawings that training may see, like the models they judge; what the command prints is measured on the other drawings.

Nothing of it is kept in the repository: training takes under three minutes on one core, the file is a cache, and
`load` makes it where it is missing or was made from other drawings.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from . import art, scenes

CACHE = Path.home() / ".cache" / "minidreamo"
PLACES = (*scenes.SINGLE_PLACES, *scenes.PAIR_PLACES, "three")
"""Where subjects stand: one in the middle or at an edge, two beside or above each other, three."""
COLOURS, GROUNDS = tuple(scenes.COLOURS), scenes.GROUNDS
SIDE = scenes.REFERENCE_SIDE
SUBJECT_STEPS, LAYOUT_STEPS = 1000, 400
BATCH, LAYOUT_BATCH = 96, 64
CANDIDATES = 20


def block(inward: int, outward: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inward, outward, 3, stride, 1, bias=False), nn.BatchNorm2d(outward), nn.ReLU(inplace=True)
    )


class Subjects(nn.Module):
    """(b, 3, 48, 48) in −1 to 1 to (b, 128) of length one."""

    SCALE = 16.0
    """Of the cosines before the softmax over names."""

    def __init__(self, names: int):
        super().__init__()
        self.body = nn.Sequential(
            block(3, 24, 2), block(24, 48, 2), block(48, 48, 1), block(48, 96, 2), block(96, 96, 1), block(96, 128, 2)
        )
        self.head = nn.Linear(128 * 9, 128)
        self.names = nn.Parameter(torch.randn(names, 128) * 0.1)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return functional.normalize(self.head(self.body(pictures).flatten(1)), dim=-1)

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """(b, names)."""
        return self.SCALE * features @ functional.normalize(self.names, dim=-1).mT


class Layout(nn.Module):
    """(b, 3, 96, 96) in −1 to 1 to logits of place, colour and kind of ground."""

    SIZES = (len(PLACES), len(COLOURS), len(GROUNDS))

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(block(3, 16, 2), block(16, 32, 2), block(32, 48, 2), block(48, 64, 2))
        self.head = nn.Linear(64 * 36, sum(self.SIZES))

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.head(self.body(pictures).flatten(1)).split(self.SIZES, -1)


def place_of(scene: scenes.Scene) -> int:
    """Number in `PLACES`, from where the subjects stand."""
    centres = [subject.centre for subject in scene.subjects]
    if len(centres) == 3:
        return PLACES.index("three")
    if len(centres) == 2:
        return PLACES.index("left of" if abs(centres[0][0] - centres[1][0]) > 30 else "above")
    (x, y) = centres[0]
    for place, edge in (("on the left", x == 24), ("on the right", x == 72), ("at the top", y == 24),
                        ("at the bottom", y == 72)):  # fmt: skip
        if edge:
            return PLACES.index(place)
    return PLACES.index("")


def softened(pictures: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """What drawing through an autoencoder does to a picture, roughly: blurred, noisy, its contrast a little off."""
    count = len(pictures)
    small = functional.avg_pool2d(pictures, 3, 1, 1, count_include_pad=False)
    share = torch.rand(count, 1, 1, 1, generator=generator)
    out = pictures.lerp(small, share)
    out = out * (0.8 + 0.4 * torch.rand(count, 1, 1, 1, generator=generator))
    out = out + 0.15 * torch.randn(count, 3, 1, 1, generator=generator)
    return out + 0.08 * torch.rand(count, 1, 1, 1, generator=generator) * torch.randn(out.shape, generator=generator)


@dataclass(frozen=True)
class Crops:
    """Endless crops of single subjects on the grounds of the scenes, moved, turned, scaled and mirrored.

    Attributes:
        drawings: (names, vendors, 4, 48, 48), colours premultiplied, 0 to 1.
        grounds: (n, 3, 96, 96) in 0 to 1.
    """

    drawings: torch.Tensor
    grounds: torch.Tensor

    @staticmethod
    def of(world: art.Art, seed: int, grounds: int = 384) -> Crops:
        rng = np.random.default_rng((seed, 1))
        pictures = [scenes.background(str(rng.choice(COLOURS)), str(rng.choice(GROUNDS)), rng) for _ in range(grounds)]
        count, vendors = world.trained.shape
        drawings = np.zeros((count, vendors, SIDE, SIDE, 4), np.float32)
        margin = (SIDE - scenes.SUBJECT_SIDE) // 2
        inside = slice(margin, margin + scenes.SUBJECT_SIDE)
        for name, vendor in np.ndindex(count, vendors):
            drawn = scenes.cutout(world, scenes.Subject(name, vendor), scenes.SUBJECT_SIDE)
            drawings[name, vendor, inside, inside] = drawn / [255, 255, 255, 1]
        return Crops(
            torch.from_numpy(drawings).movedim(-1, 2).contiguous(),
            torch.from_numpy(np.stack(pictures)).movedim(-1, 1).float() / 255,
        )

    def __call__(self, names: torch.Tensor, vendors: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """(b, 3, 48, 48) in −1 to 1."""
        count = len(names)

        def uniform(low, high, *shape):
            return low + (high - low) * torch.rand(count, *shape, generator=generator)

        angle, scale = uniform(-0.25, 0.25), uniform(0.85, 1.2)
        mirror = torch.where(uniform(0, 1) < 0.3, -1.0, 1.0)
        affine = torch.stack(
            [mirror * angle.cos() * scale, -angle.sin() * scale, uniform(-0.15, 0.15),
             mirror * angle.sin() * scale, angle.cos() * scale, uniform(-0.15, 0.15)], 1
        ).unflatten(1, (2, 3))  # fmt: skip
        grid = functional.affine_grid(affine, (count, 4, SIDE, SIDE), align_corners=False)
        drawn = functional.grid_sample(self.drawings[names, vendors], grid, align_corners=False)
        chosen = torch.randint(len(self.grounds), (count,), generator=generator)
        left, top = torch.randint(scenes.SIDE - SIDE, (2,), generator=generator).tolist()
        ground = self.grounds[chosen][..., top : top + SIDE, left : left + SIDE].clone()
        # A quarter on white, as references are.
        ground[uniform(0, 1) < 0.25] = 1
        picture = ground * (1 - drawn[:, 3:]) + drawn[:, :3]
        return softened(picture * 2 - 1, generator)


def train_subjects(world: art.Art, seed: int, steps: int, say=print) -> Subjects:
    """Names by cross-entropy, and every crop nearer to another vendor's crop of its subject than to other subjects'."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    crops = Crops.of(world, seed)
    model = Subjects(len(world.names)).to(memory_format=torch.channels_last).train()
    trained = torch.from_numpy(world.trained)
    usable = trained.any(1).nonzero().flatten()
    optimizer = torch.optim.AdamW(model.parameters(), 1.0, weight_decay=0.02)
    for step in range(steps):
        rate = 4e-3 * min(1, (step + 1) / 50) * (1 - step / steps)
        optimizer.param_groups[0]["lr"] = rate
        # Every name twice, by two vendors where it has two.
        names = usable[torch.randperm(len(usable), generator=generator)[: BATCH // 2]]
        chance = trained[names].float()
        vendors = torch.multinomial(chance + 1e-9, 2, generator=generator)
        single = chance.sum(1) < 2
        vendors[single, 1] = vendors[single, 0]
        pictures = crops(names.repeat(2), vendors.mT.flatten(), generator)
        features = model(pictures.contiguous(memory_format=torch.channels_last))
        # Names that training never sees are no answer.
        logits = model.logits(features).masked_fill(~trained.any(1), float("-inf"))
        one, two = features.chunk(2)
        alike = Subjects.SCALE * one @ two.mT
        same = torch.arange(len(names))
        loss = functional.cross_entropy(logits, names.repeat(2)) + 0.5 * (
            functional.cross_entropy(alike, same) + functional.cross_entropy(alike.mT, same)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 200 == 0:
            say(f"subjects: step {step + 1} of {steps}, loss {loss.item():.3f}")
    return model.eval().requires_grad_(False)


def layout_batch(world: art.Art, pool: np.ndarray, rng: np.random.Generator, count: int):
    """(count, 3, 96, 96) pictures and (count, 3) answers."""
    drawn, answers = [], []
    for _ in range(count):
        scene = scenes.random_scene(world, rng, pool, int(rng.choice([1, 2, 3], p=[0.6, 0.3, 0.1])))
        drawn.append(scenes.draw(world, scene)[0])
        answers.append((place_of(scene), COLOURS.index(scene.colour), GROUNDS.index(scene.ground)))
    return scenes.to_pixels(np.stack(drawn)), torch.tensor(answers)


def train_layout(world: art.Art, seed: int, steps: int, say=print) -> Layout:
    torch.manual_seed(seed)
    rng, generator = np.random.default_rng((seed, 2)), torch.Generator().manual_seed(seed)
    model = Layout().train()
    pool = np.argwhere(world.trained)
    optimizer = torch.optim.AdamW(model.parameters(), 1.0, weight_decay=0.01)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 3e-3 * min(1, (step + 1) / 30) * (1 - step / steps)
        pictures, answers = layout_batch(world, pool, rng, LAYOUT_BATCH)
        out = model(softened(pictures, generator))
        loss = sum(functional.cross_entropy(logits, answers[:, n]) for n, logits in enumerate(out))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 100 == 0:
            say(f"layout: step {step + 1} of {steps}, loss {loss.item():.3f}")
    return model.eval().requires_grad_(False)


def candidates(names: int, right: int, rng: np.random.Generator) -> np.ndarray:
    """CANDIDATES numbers of names, the right one first."""
    others = [n for n in range(names) if n != right]
    return np.array([right, *rng.choice(others, min(CANDIDATES - 1, len(others)), replace=False)])


@dataclass(frozen=True, eq=False)
class Judge:
    """The trained networks with every drawing's feature.

    Attributes:
        drawings: (names, vendors, 128) features of the drawings on white.
    """

    subjects: Subjects
    layout: Layout
    drawings: torch.Tensor

    @torch.no_grad()
    def features(self, crops: Sequence[np.ndarray]) -> torch.Tensor:
        """(n, 128) of crops (48, 48, 3) in bytes."""
        return self.subjects(scenes.to_pixels(np.stack(crops)))

    def likeness(self, feature: torch.Tensor, subject: scenes.Subject) -> float:
        """Cosine of a crop's feature and the very drawing that was the reference."""
        return float(feature @ self.drawings[subject.name, subject.vendor])

    def named_right(self, feature: torch.Tensor, subject: scenes.Subject, among: np.ndarray) -> bool:
        """Whether a crop is most like the first of the names in `among`.

        A name is the mean of its drawings by the other vendors: a copy of the reference is right only if it can be
        told what it shows.
        """
        others = [v for v in range(self.drawings.shape[1]) if v != subject.vendor]
        names = functional.normalize(self.drawings[torch.from_numpy(among)][:, others].mean(1), dim=-1)
        return int((names @ feature).argmax()) == 0

    @torch.no_grad()
    def layout_of(self, pictures: np.ndarray) -> torch.Tensor:
        """(n, 3) numbers of place, colour and kind of ground for (n, 96, 96, 3) bytes."""
        return torch.stack([logits.argmax(-1) for logits in self.layout(scenes.to_pixels(pictures))], 1)


def identity(world: art.Art, seed: int) -> str:
    text = "".join(world.names).encode() + world.trained.tobytes() + world.cutouts.tobytes()
    return hashlib.sha256(text + repr((seed, SUBJECT_STEPS, LAYOUT_STEPS, BATCH, LAYOUT_BATCH)).encode()).hexdigest()


def judge_of(world: art.Art, subjects: Subjects, layout: Layout) -> Judge:
    count, vendors = world.trained.shape
    drawn = [scenes.draw_reference(world, scenes.Subject(n, v)) for n, v in np.ndindex(count, vendors)]
    with torch.no_grad():
        features = torch.cat(
            [subjects(scenes.to_pixels(np.stack(drawn[n : n + 256]))) for n in range(0, len(drawn), 256)]
        )
    return Judge(subjects, layout, features.unflatten(0, (count, vendors)))


def load(world: art.Art, path: Path = CACHE / "classifier.safetensors", seed: int = 0, say=print) -> Judge:
    """The judge of this art, from its file, or trained and kept there first."""
    wanted = identity(world, seed)
    stored = None
    if path.exists():
        with safe_open(path, "pt") as file:
            stored = (file.metadata() or {}).get("identity")
    if stored != wanted:
        say(f"training the classifier, once, for {path}")
        started = time.monotonic()
        parts = {"subjects": train_subjects(world, seed, SUBJECT_STEPS, say),
                 "layout": train_layout(world, seed, LAYOUT_STEPS, say)}  # fmt: skip
        say(f"trained in {time.monotonic() - started:.0f} s")
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {f"{part}.{k}": v.contiguous() for part, model in parts.items() for k, v in model.state_dict().items()}
        scratch = path.with_suffix(f".{os.getpid()}.part")
        save_file(state, scratch, {"identity": wanted})
        os.replace(scratch, path)
    state = load_file(path)
    subjects, layout = Subjects(len(world.names)), Layout()
    for part, model in (("subjects", subjects), ("layout", layout)):
        model.load_state_dict({k.removeprefix(f"{part}."): v for k, v in state.items() if k.startswith(f"{part}.")})
        model.eval().requires_grad_(False)
    return judge_of(world, subjects, layout)


def accuracy(judge: Judge, world: art.Art, seed: int = 7, count: int = 600) -> dict[str, float]:
    """How often the judge itself is right, on real drawings that it did not learn from.

    Each drawing stands on a scene's ground at its place, as in a picture that is perfect.
    """
    rng = np.random.default_rng(seed)
    known = world.trained.any(1)
    groups = {
        "name, held-out drawings of known subjects": np.argwhere(~world.trained & known[:, None]),
        "name, held-out subjects": scenes.unseen_pool(world),
    }
    found: dict[str, float] = {}
    for group, pool in groups.items():
        right, all_names, pictures, answers, like, unlike = [], [], [], [], [], []
        for _ in range(count):
            scene = scenes.random_scene(world, rng, pool, 1, styled=0)
            subject = scene.subjects[0]
            picture = scenes.draw(world, scene)[0]
            feature = judge.features([scenes.window(picture, subject, SIDE)])[0]
            among = candidates(len(world.names), subject.name, rng)
            right.append(judge.named_right(feature, subject, among))
            all_names.append(int(judge.subjects.logits(feature).argmax()) == subject.name)
            like.append(judge.likeness(feature, subject))
            unlike.append(judge.likeness(feature, scenes.Subject(int(among[1]), subject.vendor)))
            pictures.append(picture)
            answers.append((place_of(scene), COLOURS.index(scene.colour), GROUNDS.index(scene.ground)))
        found[f"{group} (among {CANDIDATES})"] = float(np.mean(right))
        if known[pool[0, 0]]:
            found[f"{group} (among all {int(known.sum())})"] = float(np.mean(all_names))
        found[f"{group}: cosine with the drawing"] = float(np.mean(like))
        found[f"{group}: cosine with another's"] = float(np.mean(unlike))
    pictures, answers = layout_batch(world, groups["name, held-out subjects"], rng, count)
    drawn = scenes.to_bytes(pictures)
    hits = (judge.layout_of(drawn) == answers).float().mean(0).tolist()
    return found | dict(zip(("place", "ground colour", "ground kind"), hits, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--art", type=Path, default=CACHE / "art")
    parser.add_argument("--out", type=Path, default=CACHE / "classifier.safetensors")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    world = art.load(arguments.art)
    judge = load(world, arguments.out, arguments.seed)
    for name, value in accuracy(judge, world).items():
        print(f"{name:70} {value:.3f}")


if __name__ == "__main__":
    main()

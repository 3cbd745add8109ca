"""Scores of a trained mini DreamO on subjects it has never seen, seeds fixed.

Each with its deviation over seeds and, for there are few prompts, its 95 % interval over them.

    python3 scripts/host.py exec -m minidreamo.score CONFIG.toml [DREAMO.safetensors] [--pictures 48] [--seeds 3]
                                                     [--sheet FILE.webp] [--json FILE] [--no-placeholders]

By the classifier of `classifier.py`, a network trained on the same drawings by several vendors:
- subject: cosine of the features of the subject's place and of the reference's drawing (1 is a copy; `subject chance`
  is against another subject's drawing).
- named: share of subjects that the classifier names rightly among 20, from the other vendors' drawings.
- place, ground: share of pictures whose arrangement and whose ground's colour are those of the prompt.
- prompt: share of pictures that have all of that right, every subject included.
- swapped: in two-subject pictures, share in which the places are more like each other's references (chance 0.5).

By pixels alone:
- pixels: correlation with the reference's drawing over its opaque part; `pixels chance` against another subject's.
- pixels right: share of subjects more like their own drawing than like any of 19 others (chance 0.05).
- pixels swapped: as swapped.

- style: of pictures told "generate a same style image" with an unseen subject as reference, the share whose known
  subject is most like its drawing by the reference's vendor (chance 0.2); `style, none` is the same without the
  reference, and `style, by word` with the vendor's word after the name instead: what the base can do.

- IoU: the reference's response map (Eq. 2), its top tokens as many as the mask has, against the mask.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dreamo_core.training.config import load_config

from . import art, classifier, scenes
from .build_data import STYLE_START, style_sample
from .intervals import interval
from .sampling import Artist, load_artist

SEED = 20_000


@dataclass(frozen=True)
class Task:
    """A scene to draw and its references."""

    scene: scenes.Scene
    count: int


def tasks(world: art.Art, count: int, pictures: int) -> list[Task]:
    """Scenes of held-out subjects only, plain grounds, always the same."""
    rng = np.random.default_rng(SEED + count)
    pool = scenes.unseen_pool(world)
    return [Task(scenes.random_scene(world, rng, pool, count, styled=0), count) for _ in range(pictures)]


def style_tasks(world: art.Art, pictures: int) -> list[tuple[scenes.Scene, scenes.Subject]]:
    """Scenes with one of the common subjects on plain grounds, and the unseen subject that is their style reference."""
    rng = np.random.default_rng(SEED)
    common, unseen = scenes.common_pool(world), scenes.unseen_pool(world)
    chosen: list[tuple[scenes.Scene, scenes.Subject]] = []
    while len(chosen) < pictures:
        sample = style_sample(world, rng, common, unseen)
        if sample[0].ground == "plain":
            chosen.append(sample)
    return chosen


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(float).ravel(), b.ravel()
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-9))


def likeness(part: np.ndarray, drawing: np.ndarray) -> float:
    """Correlation of the pixels under a cut-out's opaque part, colours together."""
    mask = drawing[..., 3] > 0.5
    return correlation(part[mask], drawing[..., :3][mask])


def iou(response: torch.Tensor, mask: torch.Tensor) -> float:
    """Top tokens of a response map, as many as the mask has, against the mask."""
    wanted = mask > 0.3
    chosen = torch.zeros_like(wanted)
    chosen[response.topk(int(wanted.sum())).indices] = True
    return float((chosen & wanted).sum() / (chosen | wanted).sum())


def token_masks(masks: np.ndarray) -> torch.Tensor:
    """(n, h, w) bytes to (n, tokens) shares."""
    count, height, width = masks.shape
    return (
        torch.from_numpy(masks).float().reshape(count, height // 16, 16, width // 16, 16).mean((2, 4)).flatten(1) / 255
    )


def draw_all(
    artist: Artist, world: art.Art, chosen: list[Task], seed: int, placeholders: bool = True, steps: int = 12,
    watch: Callable[[torch.Tensor], None] | None = None,
):  # fmt: skip
    """Pictures (n, h, w, 3) bytes and response maps (n, r, tokens) of tasks with equally many references.

    Args:
        watch: see `Artist.sample`.

    Returns:
        The maps are in the order in which the prompt names the subjects.
    """
    prompts = [task.scene.text(placeholders=placeholders) for task in chosen]
    references = []
    for place in range(chosen[0].count):
        shown = np.stack([scenes.draw_reference(world, task.scene.references[place]) for task in chosen])
        references.append(artist.encode(scenes.to_pixels(shown)))
    pixels, maps = artist.draw(prompts, references, seed, steps, watch=watch)
    return scenes.to_bytes(pixels), in_prompts_order(maps, chosen)


def in_prompts_order(maps: torch.Tensor, chosen: list[Task]) -> torch.Tensor:
    """(…, n, r, tokens) maps of references as those of the subjects in the order of the prompt."""
    order = torch.tensor([task.scene.numbers for task in chosen])[..., None]
    return maps.take_along_dim(order.expand(*maps.shape[:-3], *order.shape), -2)


def more_alike_crosswise(table: list[list[float]]) -> bool:
    """Whether two places (rows) are more like each other's drawings (columns) than like their own."""
    return table[0][1] + table[1][0] > table[0][0] + table[1][1]


def by_pixels(world: art.Art, subjects: tuple[scenes.Subject, ...], picture: np.ndarray, among: list[np.ndarray]):
    """Scores of one picture by name, each a list with one number a subject or a picture."""

    def drawn(name: int, vendor: int) -> np.ndarray:
        return scenes.cutout(world, scenes.Subject(name, vendor), scenes.SUBJECT_SIDE)

    parts = [scenes.window(picture, subject, scenes.SUBJECT_SIDE) for subject in subjects]
    found: dict[str, list[float]] = {"pixels": [], "pixels chance": [], "pixels right": []}
    for part, subject, names in zip(parts, subjects, among, strict=True):
        own, *rivals = (likeness(part, drawn(int(n), subject.vendor)) for n in names)
        found["pixels"].append(own)
        found["pixels chance"].append(rivals[0])
        found["pixels right"].append(own > max(rivals))
    if len(subjects) == 2:
        drawings = [drawn(s.name, s.vendor) for s in subjects]
        table = [[likeness(part, d) for d in drawings] for part in parts]
        found["pixels swapped"] = [more_alike_crosswise(table)]
    return found


def by_classifier(judge: classifier.Judge, scene: scenes.Scene, picture: np.ndarray, among: list[np.ndarray]):
    """As `by_pixels`."""
    subjects = scene.subjects
    features = judge.features([scenes.window(picture, subject, classifier.SIDE) for subject in subjects])
    place, colour, _ = judge.layout_of(picture[None])[0].tolist()
    found = {
        "subject": [judge.likeness(f, s) for f, s in zip(features, subjects, strict=True)],
        "subject chance": [
            judge.likeness(f, scenes.Subject(int(names[1]), s.vendor))
            for f, s, names in zip(features, subjects, among, strict=True)
        ],
        "named": [judge.named_right(*each) for each in zip(features, subjects, among, strict=True)],
        "place": [place == classifier.place_of(scene)],
        "ground": [colour == classifier.COLOURS.index(scene.colour)],
    }
    found["prompt"] = [all(found["named"]) and found["place"][0] and found["ground"][0]]
    if len(subjects) == 2:
        found["swapped"] = [more_alike_crosswise([[judge.likeness(f, s) for s in subjects] for f in features])]
    return found


def measure(judge: classifier.Judge, world: art.Art, task: Task, picture: np.ndarray, rng: np.random.Generator):
    """All scores of one picture except IoU, each a list with one number a subject or a picture."""
    among = [classifier.candidates(len(world.names), subject.name, rng) for subject in task.scene.subjects]
    return by_classifier(judge, task.scene, picture, among) | by_pixels(world, task.scene.subjects, picture, among)


def score_pictures(
    artist: Artist, world: art.Art, judge: classifier.Judge, pictures: int, seeds: int, placeholders: bool = True,
    counts: Sequence[int] = (1, 2),
):  # fmt: skip
    """Numbers by name, a list of pictures for each seed; and the first seed's pictures by number of references.

    Args:
        placeholders: whether the prompts have them.
        counts: numbers of references.

    Returns:
        A picture's number is the mean over its subjects; the n-th of every seed is of the same prompt.
    """
    numbers: dict[str, list[list[float]]] = {}
    shown = {}
    rng = np.random.default_rng(SEED)
    for count in counts:
        chosen = tasks(world, count, pictures)
        wanted = [token_masks(scenes.draw(world, task.scene)[1]) for task in chosen]
        for seed in range(seeds):
            drawn, maps = draw_all(artist, world, chosen, SEED + seed, placeholders)
            if seed == 0:
                shown[count] = drawn
            found: dict[str, list[float]] = defaultdict(list)
            for task, picture, responses, masks in zip(chosen, drawn, maps, wanted, strict=True):
                for name, values in measure(judge, world, task, picture, rng).items():
                    found[name].append(float(np.mean(values)))
                found["IoU"].append(float(np.mean([iou(r, m) for r, m in zip(responses, masks, strict=True)])))
            for name, values in found.items():
                numbers.setdefault(f"{name} ({count})", []).append(values)
    return numbers, shown


def over_seeds(numbers: dict[str, list[list[float]]]) -> dict[str, list[float]]:
    """The mean of every seed, from numbers of its pictures."""
    return {name: [statistics.fmean(values) for values in seeds] for name, seeds in numbers.items()}


def over_pictures(seeds: list[list[float]]) -> list[float]:
    """One number a prompt, from its pictures with several seeds."""
    return [statistics.fmean(values) for values in zip(*seeds, strict=True)]


def score(*args, **kwargs):
    """As `score_pictures`, with the mean of every seed in the place of its pictures."""
    numbers, shown = score_pictures(*args, **kwargs)
    return over_seeds(numbers), shown


def by_vendors(world: art.Art, scene: scenes.Scene) -> list[list[np.ndarray]]:
    """The place of a scene's first subject as each vendor would draw it on that colour: plain and mirrored."""

    def shown(vendor: int, mirrored: bool) -> np.ndarray:
        canvas = np.full((scenes.SUBJECT_SIDE, scenes.SUBJECT_SIDE, 3), scenes.COLOURS[scene.colour], float)
        subject = replace(scene.subjects[0], vendor=vendor, mirrored=mirrored)
        scenes.paste(canvas, scenes.cutout(world, subject, scenes.SUBJECT_SIDE), 0, 0)
        return canvas

    return [[shown(vendor, mirrored) for mirrored in (False, True)] for vendor in range(len(scenes.STYLES))]


STYLE_WAYS = ("style", "style, none", "style, by word")


def score_styles(
    artist: Artist, world: art.Art, pictures: int, seeds: int, told: Sequence[str] = STYLE_WAYS
) -> dict[str, list[list[float]]]:
    """Whether the style is right, by how the model was told: a list of pictures for each seed."""
    chosen = style_tasks(world, pictures)
    drawings = [by_vendors(world, scene) for scene, _ in chosen]
    prompts = [scene.text() for scene, _ in chosen]
    plain = [prompt.removeprefix(STYLE_START) for prompt in prompts]
    words = [
        scene.prompt.removeprefix(STYLE_START).format(f" from {scenes.STYLES[reference.vendor]}")
        for scene, reference in chosen
    ]
    shown = np.stack([scenes.draw_reference(world, reference) for _, reference in chosen])
    references = [artist.encode(scenes.to_pixels(shown))]
    ways = {"style": (prompts, references), "style, none": (plain, []), "style, by word": (words, [])}
    numbers: dict[str, list[list[float]]] = {name: [] for name in told}
    for name in told:
        for seed in range(seeds):
            pixels, _ = artist.draw(*ways[name], SEED + seed, 12)
            right = []
            for (scene, reference), vendors, picture in zip(chosen, drawings, scenes.to_bytes(pixels), strict=True):
                part = scenes.window(picture, scene.subjects[0], scenes.SUBJECT_SIDE)
                alike = [max(correlation(part, drawing) for drawing in own) for own in vendors]
                right.append(float(np.argmax(alike) == reference.vendor))
            numbers[name].append(right)
    return numbers


def table(numbers: dict[str, list[list[float]]]) -> str:
    """Mean, deviation of the seeds' means, and the interval over pictures."""
    lines = []
    for name, seeds in numbers.items():
        (low, high), means = interval(over_pictures(seeds)), over_seeds({name: seeds})[name]
        lines.append(
            f"{name:20} {statistics.fmean(means):.3f} ± {statistics.pstdev(means):.3f}  95 %: {low:.3f} to {high:.3f}"
        )
    return "\n".join(lines)


def write_sheet(world: art.Art, shown: dict[int, np.ndarray], pictures: int, path: Path) -> None:
    """References above what was drawn with them, ten columns a row."""
    rows = []
    for count, drawn in shown.items():
        for start in range(0, min(len(drawn), 20), 10):
            columns = []
            for task, picture in list(zip(tasks(world, count, pictures), drawn, strict=True))[start : start + 10]:
                top = np.full((scenes.REFERENCE_SIDE, scenes.SIDE, 3), 255, np.uint8)
                for n, subject in enumerate(task.scene.references):
                    left = n * scenes.REFERENCE_SIDE
                    top[:, left : left + scenes.REFERENCE_SIDE] = scenes.draw_reference(world, subject)
                columns.append(np.concatenate([top, picture]))
            rows.append(np.concatenate(columns, 1))
    picture = Image.fromarray(np.concatenate(rows))
    picture.resize((picture.width * 3 // 2, picture.height * 3 // 2), Image.Resampling.BICUBIC).save(path, quality=88)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("dreamo", type=Path, nargs="?")
    parser.add_argument("--art", type=Path, default=Path.home() / ".cache" / "minidreamo" / "art")
    parser.add_argument("--pictures", type=int, default=48)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--no-placeholders", action="store_true")
    arguments = parser.parse_args()
    run = load_config(arguments.config)
    torch.set_num_threads(run.threads or torch.get_num_threads())
    world, artist = art.load(arguments.art), load_artist(run, arguments.dreamo)
    judge = classifier.load(world)
    numbers, shown = score_pictures(
        artist, world, judge, arguments.pictures, arguments.seeds, not arguments.no_placeholders
    )
    numbers |= score_styles(artist, world, arguments.pictures, arguments.seeds)
    print(table(numbers))
    if arguments.json:
        arguments.json.write_text(json.dumps(numbers, indent=1) + "\n")
    if arguments.sheet:
        write_sheet(world, shown, arguments.pictures, arguments.sheet)


if __name__ == "__main__":
    main()

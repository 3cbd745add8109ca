"""The mini world as a benchmark like the papers': unseen subjects, drawn by the real server, judged by its classifier.

    python3 scripts/host.py exec -m minidreamo.benchmark --data DIR [--art CACHE_DIR] [--pictures 24] [--counts 1 2]

writes the data; then

    python -m dreamo_core.bench mini_world --data DIR --out RUN --graph minidreamo.benchmark:UNROUTED \\
        --scorer mini_world=CACHE_DIR

draws and scores them (`:ROUTED` for the other). Numbers are those of `score.py` with the same names.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dreamo_core.bench.case import Benchmark, Case, Data, Reference
from dreamo_core.bench.graph import OwnGraph
from dreamo_core.bench.scorers.protocol import Shot
from dreamo_core.measure.files import write_json
from dreamo_core.measure.graphs import Models, Setting

from . import art, classifier, scenes
from .score import Task, measure, tasks

TASKS = "tasks.json"

# A subject stands on nine of the 36 tokens, too few to grade, and there is no step to lose: regions before the first.
ROUTING = {"gamma": 0.25, "soft": False, "masks_from": "extra first pass"}

MODELS = Models(
    {"models": {"class_type": "DreamODemoModels", "inputs": {"seed": 0, "weights": "mini world"}}},
    ["models", 0], ["models", 1], ["models", 2], dreamo=(["models", 3], ["models", 4]),
)  # fmt: skip
SETTING = Setting(
    stack=None, steps=12, guidance=3.5, width=scenes.SIDE, height=scenes.SIDE, resolution=scenes.REFERENCE_SIDE
)


UNROUTED = OwnGraph(MODELS, SETTING)
ROUTED = OwnGraph(MODELS, replace(SETTING, routing=ROUTING))


def _scene_of(values: Mapping[str, Any]) -> scenes.Scene:
    subjects = tuple(
        scenes.Subject(**{**s, "centre": tuple(s["centre"]), "channels": tuple(s["channels"])})
        for s in values["subjects"]
    )
    return scenes.Scene(**{**values, "subjects": subjects, "numbers": tuple(values["numbers"])})


def write_data(world: art.Art, folder: Path, pictures: int, counts: Sequence[int]) -> None:
    """Scenes of held-out subjects as `tasks.json`, and their references as PNG files."""
    listed = []
    for count in counts:
        for number, task in enumerate(tasks(world, count, pictures)):
            names = []
            for subject in task.scene.references:
                name = f"references/{world.names[subject.name].replace(' ', '-')}-{scenes.STYLES[subject.vendor]}.png"
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(scenes.draw_reference(world, subject)).save(path)
                names.append(name)
            listed.append({"id": f"{count}__{number:03}", "references": names, "scene": asdict(task.scene)})
    write_json(folder / TASKS, listed)


def read(folder: Path) -> list[Case]:
    """Cases as `write_data` left them; every scene is a group, because no two are about the same subjects.

    Raises:
        ValueError: no such file.
    """
    if not (folder / TASKS).is_file():
        raise ValueError(f"There is no {TASKS} in {folder}; python -m minidreamo.benchmark writes it.")
    cases = []
    for entry in json.loads((folder / TASKS).read_text(encoding="utf-8")):
        scene = _scene_of(entry["scene"])
        references = tuple(Reference(folder / name) for name in entry["references"])
        cases.append(Case(entry["id"], scene.text(placeholders=True), scene.text(), references, entry["id"],
                          more={"scene": scene}))  # fmt: skip
    return cases


MINI_WORLD = Benchmark(
    "mini_world", "The mini world: subjects never seen in training",
    Data(
        "drawn by python -m minidreamo.benchmark from emoji packages on npm",
        "of the packages: Apache-2.0, MIT, CC BY 4.0",
        "minidreamo/README.md",
        (TASKS, "references/NAME-VENDOR.png"),
    ),
    read, seeds=3, expected={"cases": 48},
)  # fmt: skip


class ClassifierScorer:
    """The mini world's own judge. Numbers carry how many subjects the picture has: `subject (2)`."""

    name = "mini_world"

    def __init__(self, world: art.Art, judge: classifier.Judge, version: str):
        self.world, self.judge, self.version = world, judge, version

    def score(self, shots: Sequence[Shot]) -> list[dict[str, float]]:
        return [self._score(shot.case.more["scene"], np.array(shot.whole)) for shot in shots]

    def _score(self, scene: scenes.Scene, picture: np.ndarray) -> dict[str, float]:
        # The same rivals whenever this scene is scored.
        task = Task(scene, len(scene.subjects))
        found = measure(self.judge, self.world, task, picture, np.random.default_rng(scene.seed))
        return {f"{name} ({len(scene.subjects)})": float(np.mean(values)) for name, values in found.items()}


def scorer(cache: str) -> ClassifierScorer:
    """From the folder of the art; the classifier beside it is trained first where it is missing."""
    folder = Path(cache)
    world = art.load(folder / "art")
    judge = classifier.load(world, folder / "classifier.safetensors")
    return ClassifierScorer(world, judge, classifier.identity(world, 0)[:16])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--art", type=Path, default=classifier.CACHE / "art")
    parser.add_argument("--pictures", type=int, default=24)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    write_data(art.load(arguments.art), arguments.data, arguments.pictures, arguments.counts)


if __name__ == "__main__":
    main()

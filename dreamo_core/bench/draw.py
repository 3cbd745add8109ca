"""Drawing the cases of a benchmark on running servers; pictures that are there are not drawn again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ..measure.client import ComfyClient, PromptError
from ..measure.files import write_json, write_whole
from ..measure.queue import Outcome, run_jobs
from .case import Case
from .graph import Graph

PICTURES, FAILURES, RUN = "pictures", "failures.json", "run.json"

Job = tuple[str, int]
"""A case's id and a seed."""


def picture_path(out: Path, case: str, seed: int) -> Path:
    return out / PICTURES / case / f"{seed}.png"


def claim_run(out: Path, benchmark: str, graph: Graph) -> None:
    """A folder holds one run: this benchmark drawn by this graph.

    Raises:
        ValueError: it holds another.
    """
    mine = {"benchmark": benchmark, "graph": graph.fingerprint}
    path = out / RUN
    if path.exists():
        held = json.loads(path.read_text(encoding="utf-8"))
        if held != mine:
            changed = " and ".join(key for key in mine if held.get(key) != mine[key])
            raise ValueError(f"{out.name} holds a run with another {changed}; choose another --out.")
    else:
        write_json(path, mine)


class _Artist:
    """Draws one job on a server; references are uploaded once to each, its nodes are asked for once."""

    def __init__(self, cases: dict[str, Case], graph: Graph, out: Path):
        self.cases, self.graph, self.out = cases, graph, out
        self._infos: dict[str, dict] = {}
        self._names: dict[tuple[str, Path], str] = {}

    def _name(self, client: ComfyClient, path: Path) -> str:
        key = (client.url, path)
        if key not in self._names:
            self._names[key] = client.upload(path.read_bytes(), path.suffix.lower())
        return self._names[key]

    def __call__(self, client: ComfyClient, job: Job) -> None:
        case, seed = self.cases[job[0]], job[1]
        if client.url not in self._infos:
            self._infos[client.url] = client.object_info()
        names = [self._name(client, reference.path) for reference in case.references]
        prompt, node = self.graph.prompt(self._infos[client.url], case, names, seed)
        images = client.run(prompt).get(node, {}).get("images", [])
        if not images:
            raise PromptError(f"Node {node} of the graph saved no picture.")
        write_whole(picture_path(self.out, *job), client.fetch(images[0]))


def draw(
    cases: Sequence[Case], seeds: Sequence[int], graph: Graph, out: Path, urls: Sequence[str], patience: float = 60
) -> Outcome[Job]:
    """Draw what is not there yet.

    Args:
        urls: of servers; each works on a picture of its own.
        patience: see `run_jobs`.
    """
    every = [(case.id, seed) for case in cases for seed in seeds]
    todo = [job for job in every if not picture_path(out, *job).exists()]
    artist = _Artist({case.id: case for case in cases}, graph, out)
    clients = [ComfyClient(url) for url in urls]
    outcome = run_jobs(todo, clients, artist, "drawing", len(every) - len(todo), patience)
    write_json(out / FAILURES, [{"case": c, "seed": s, "said": said} for (c, s), said in outcome.failures.items()])
    return outcome

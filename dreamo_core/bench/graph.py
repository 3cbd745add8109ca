"""How a case becomes a prompt: by the pack's own nodes, or by any graph whose slots are named.

A slot is a node of the graph with a title: `slot: prompt`, `slot: seed`, `slot: reference 1` …, `slot: picture`.
Where a title is missing, the only node that could be meant is taken.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..measure.graphs import Models, Setting, reference_prompt
from ..measure.plugins import find_plugin
from ..measure.prompt import to_prompt
from .case import Case

ObjectInfo = Mapping[str, Any]
At = tuple[str, str]
"""A node's id and the name of one of its inputs."""

PICTURE_NODE = "save"
"""In prompts that are built here."""

SEED_INPUTS = ("seed", "noise_seed")
PROMPT_INPUTS = {"DreamOTextEncode": "prompt", "CLIPTextEncodeFlux": "t5xxl", "CLIPTextEncode": "text"}
"""Classes that take the prompt, the likeliest first, and which input it is."""


class Graph(Protocol):
    """Makes prompts.

    Attributes:
        fingerprint: changes when its prompts would.
    """

    fingerprint: str

    def prompt(self, info: ObjectInfo, case: Case, names: Sequence[str], seed: int) -> tuple[dict[str, Any], str]:
        """A prompt, and the id of the node whose first picture counts.

        Args:
            info: what the server's nodes are.
            names: of the case's references in the server's input folder.
        """
        ...


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class OwnGraph:
    """The pack's own nodes.

    Attributes:
        placeholders: whether prompts keep their placeholders.
    """

    models: Models
    setting: Setting
    placeholders: bool = True

    @property
    def fingerprint(self) -> str:
        return _digest([vars(self.models), vars(self.setting), self.placeholders])

    def prompt(self, info: ObjectInfo, case: Case, names: Sequence[str], seed: int) -> tuple[dict[str, Any], str]:
        tasks = [reference.task for reference in case.references]
        text = case.prompt if self.placeholders else case.text
        chain = list(zip(names, tasks, strict=True))
        return reference_prompt(info, self.models, self.setting, text, chain, seed), PICTURE_NODE


LOAD, EXAMPLE = "LoadImage", "DreamOExamplePicture"


@dataclass(frozen=True)
class Slots:
    """Where a graph takes what a case gives.

    Attributes:
        references: LoadImage's input of each reference, in order.
        tasks: of the node behind each, where that has one.
        picture: id of the node that saves.
    """

    prompts: tuple[At, ...]
    seeds: tuple[At, ...]
    references: tuple[At, ...]
    tasks: tuple[At | None, ...]
    picture: str


def _titles(graph: Mapping[str, Any]) -> dict[str, str]:
    """Titles by id, of a saved workflow or of a prompt."""
    if "nodes" in graph:
        return {str(node["id"]): node.get("title", "") for node in graph["nodes"]}
    return {node: content.get("_meta", {}).get("title", "") for node, content in graph.items()}


def _slot_titles(titles: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for node, title in titles.items():
        if match := re.fullmatch(r"\s*slot:\s*(.+?)\s*", title, re.IGNORECASE):
            found.setdefault(match[1].lower(), []).append(node)
    return found


def _only(candidates: Sequence[str], slot: str, prompt: Mapping[str, Any]) -> str:
    if len(candidates) == 1:
        return candidates[0]
    shown = ", ".join(f"{node} ({prompt[node]['class_type']})" for node in candidates) or "none"
    raise ValueError(f"The graph must have one node for {slot}: give it the title `slot: {slot}`. Candidates: {shown}.")


def _prompt_slots(prompt: Mapping[str, Any], titled: list[str]) -> tuple[At, ...]:
    if titled:
        return tuple((node, PROMPT_INPUTS.get(prompt[node]["class_type"], "text")) for node in titled)
    for kind, name in PROMPT_INPUTS.items():
        # An empty text is a negative one; a linked text comes from elsewhere.
        texts = {node: c["inputs"].get(name) for node, c in prompt.items() if c["class_type"] == kind}
        nodes = [node for node, text in texts.items() if isinstance(text, str) and text]
        if nodes:
            return ((_only(nodes, "prompt", prompt), name),)
    raise ValueError("The graph has no node that takes the prompt; give one the title `slot: prompt`.")


def _chain_order(prompt: Mapping[str, Any], node: str) -> int:
    """How many references come before the one that this LoadImage feeds."""
    behind = _behind(prompt, node)
    count = 0
    while behind and isinstance(link := prompt[behind]["inputs"].get("references"), list):
        behind, count = link[0], count + 1
    return count


def _behind(prompt: Mapping[str, Any], node: str) -> str | None:
    """The DreamO Reference that a node's first output goes to."""
    kind, link = "DreamOReference", [node, 0]
    return next((n for n, c in prompt.items() if c["class_type"] == kind and c["inputs"].get("image") == link), None)


def find_slots(prompt: Mapping[str, Any], titles: Mapping[str, str]) -> Slots:
    """The slots of a graph.

    Raises:
        ValueError: one is missing, or more than one node could be meant.
    """
    named = _slot_titles(titles)
    unknown = [name for name in named if not re.fullmatch(r"prompt|seed|picture|reference \d+", name)]
    if unknown:
        raise ValueError(f"Unknown slots {unknown}; there are prompt, seed, reference 1, reference 2 …, picture.")
    references = [named[f"reference {n}"][0] for n in range(1, 10) if f"reference {n}" in named]
    if not references:
        loads = [node for node, content in prompt.items() if content["class_type"] in (LOAD, EXAMPLE)]
        references = sorted(loads, key=lambda node: _chain_order(prompt, node))
    seeds = [
        (node, name)
        for node, content in prompt.items()
        if not named.get("seed") or node in named["seed"]
        for name in SEED_INPUTS
        if isinstance(content["inputs"].get(name), int)
    ]
    if not seeds:
        raise ValueError("The graph has no node with a seed of its own; give one the title `slot: seed`.")
    saves = named.get("picture") or [n for n, c in prompt.items() if c["class_type"] in ("SaveImage", "PreviewImage")]
    if len(saves) > 1 and not named.get("picture"):
        saves = [node for node in saves if prompt[node]["class_type"] == "SaveImage"]
    behind = [_behind(prompt, node) for node in references]
    return Slots(
        _prompt_slots(prompt, named.get("prompt", [])),
        tuple(seeds),
        tuple((node, "image") for node in references),
        tuple((node, "task") if node else None for node in behind),
        _only(saves, "picture", prompt),
    )


def parse_value(text: str) -> Any:
    """A number, true or false where it is one, else the text itself."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


class SavedGraph:
    """A graph from a file: as the front end saves it, or in its API format.

    Args:
        changes: values by "NODE.INPUT", for example {"13.strength": 0.5}.
    """

    def __init__(self, path: Path, changes: Mapping[str, Any] | None = None, placeholders: bool = True):
        self.path, self.changes, self.placeholders = path, dict(changes or {}), placeholders
        try:
            self.graph = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is no graph: {error}.") from error
        self.fingerprint = _digest([self.graph, self.changes, placeholders])

    def _template(self, info: ObjectInfo) -> dict[str, Any]:
        prompt = to_prompt(self.graph, info) if "nodes" in self.graph else copy.deepcopy(self.graph)
        for place, value in self.changes.items():
            node, _, name = place.partition(".")
            if node not in prompt or name not in prompt[node]["inputs"]:
                raise ValueError(f"{self.path.name} has no {place}; give NODE.INPUT=VALUE of a node in the graph.")
            prompt[node]["inputs"][name] = value
        return prompt

    def prompt(self, info: ObjectInfo, case: Case, names: Sequence[str], seed: int) -> tuple[dict[str, Any], str]:
        prompt = self._template(info)
        slots = find_slots(prompt, _titles(self.graph))
        if len(slots.references) != len(names):
            raise ValueError(
                f"{self.path.name} has {len(slots.references)} slots for references, {case.id} has {len(names)}."
            )
        values: dict[At, Any] = dict.fromkeys(slots.prompts, case.prompt if self.placeholders else case.text)
        values |= dict.fromkeys(slots.seeds, seed) | dict(zip(slots.references, names, strict=True))
        tasks = zip(slots.tasks, case.references, strict=True)
        values |= {at: reference.task for at, reference in tasks if at is not None}
        for node, _ in slots.references:
            # An example that comes with the pack has the same outputs, and no input for a file.
            if prompt[node]["class_type"] == EXAMPLE:
                prompt[node] = {"class_type": LOAD, "inputs": {}}
        for (node, name), value in values.items():
            prompt[node]["inputs"][name] = value
        return prompt, slots.picture


def find_graph(spec: str, changes: Mapping[str, Any], placeholders: bool) -> Graph:
    """A graph from a JSON file, or from `package.module:attribute`.

    Raises:
        ValueError: no such.
    """
    if spec.endswith(".json"):
        return SavedGraph(Path(spec), changes, placeholders)
    return find_plugin(spec, "graph", "a .json file or package.module:attribute")

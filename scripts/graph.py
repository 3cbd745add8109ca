"""ComfyUI graphs in the front end's own JSON: building them, turning them into prompts, swapping their loaders."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import tomllib

# Behind everything: `nodes` must stay the host's in the tests.
sys.path.append(str(Path(__file__).resolve().parent.parent))

from dreamo_core.measure.prompt import (  # noqa: E402
    MUTED,
    NOT_EXECUTED,
    default_of,
    has_control,
    has_upload,
    inputs_of,
    is_widget,
    replace_loaders,
    to_prompt,
    widget_values,
)

__all__ = [
    "DEMO_NODES", "LOADERS", "MUTED", "NOT_EXECUTED", "Graph", "Slot", "default_of", "has_control", "has_upload",
    "inputs_of", "is_widget", "note_height", "save", "to_prompt", "use_demo_models", "widget_values",
]  # fmt: skip

# In the canvas' own units. A node's position is that of its body: its title lies above.
NODE_WIDTH, NOTE_WIDTH = 300, 460
COLUMN_GAP, ROW_GAP, GROUP_GAP = 50, 70, 50
NODE_TITLE, GROUP_TITLE, GROUP_PADDING = 30, 50, 15
SHOWS_PICTURES = {
    "LoadImage", "SaveImage", "PreviewImage", "MaskPreview", "DreamOReference", "DreamOReferences",
    "DreamOReferenceBatch", "DreamOExamplePicture", "DreamORoutedSampler", "DreamORoutingPreview",
}  # fmt: skip


PROJECT = tomllib.loads((Path(__file__).resolve().parent.parent / "pyproject.toml").read_text())["project"]
OURS = ("DreamO", "RealCustom")
"""How the ids of our nodes begin."""


class Slot(NamedTuple):
    """An output of a node in a graph under construction."""

    node: int
    index: int
    type: str


def note_height(text: str) -> int:
    """Height that shows a whole note of `NOTE_WIDTH`: some 70 characters fit on a line."""
    return 50 + sum(26 if line.startswith("#") else 12 * max(1, -(-len(line) // 70)) for line in text.splitlines())


class Graph:
    """A graph under construction; nodes are laid out in the columns they are added to.

    Args:
        object_info: the host's node definitions.
        models: of the files that nodes name, what the front end needs to offer a download: name, url, directory.
    """

    def __init__(self, object_info: dict[str, Any], models: dict[str, dict[str, str]] | None = None):
        self.object_info = object_info
        self.models = models or {}
        self.nodes: list[dict[str, Any]] = []
        self.links: list[list[Any]] = []
        self.groups: list[tuple[str, list[dict[str, Any]]]] = []
        self._x, self._y, self._width = 0, 0, 0

    def column(self) -> None:
        """Start a new column to the right, unless this one is still empty."""
        if self._width:
            self._x, self._y, self._width = self._x + self._width + COLUMN_GAP, 0, 0

    def group(self, title: str) -> None:
        """Start a new column; what is added from here on is in a box with this title."""
        self.column()
        self._x += GROUP_GAP if self.nodes else 0
        self.groups.append((title, []))

    def note(self, text: str) -> None:
        """A Markdown note, in a column of its own."""
        self.column()
        note = {"type": "MarkdownNote", "inputs": [], "outputs": [], "widgets_values": [text]}
        self._place(note, note_height(text), NOTE_WIDTH)
        self.column()

    def add(self, type_: str, title: str | None = None, **inputs: Any) -> list[Slot]:
        """Add a node; a `Slot` links an input, anything else is a widget's value. Returns the node's outputs.

        Raises:
            ValueError: the class has no such input.
        """
        info = self.object_info[type_]
        declared = inputs_of(info)
        unknown = set(inputs) - {name for name, _, _ in declared}
        if unknown:
            raise ValueError(f"{type_} has no input {', '.join(sorted(unknown))}.")
        node_id = len(self.nodes) + 1
        slots, widgets = [], []
        # As the front end lists them: sockets first, then what could be a widget.
        for name, kind, options in sorted(declared, key=lambda one: is_widget(*one[1:])):
            value, widget = inputs.get(name), is_widget(kind, options)
            linked = isinstance(value, Slot)
            if linked or not widget:
                slot = {"name": name, "type": "COMBO" if isinstance(kind, list) else kind, "link": None}
                if widget:
                    slot["widget"] = {"name": name}
                if linked:
                    self.links.append([len(self.links) + 1, value.node, value.index, node_id, len(slots), value.type])
                    slot["link"] = len(self.links)
                    self.nodes[value.node - 1]["outputs"][value.index]["links"].append(len(self.links))
                slots.append(slot)
        for name, kind, options in declared:
            value = inputs.get(name)
            if is_widget(kind, options):
                kept = name not in inputs or isinstance(value, Slot)
                widgets.append(default_of(kind, options) if kept else value)
                if has_control(name, kind, options):
                    widgets.append("fixed")
                if has_upload(options):
                    widgets.append("image")
        outputs = [
            {"name": name, "type": kind, "links": [], "slot_index": i}
            for i, (name, kind) in enumerate(zip(info["output_name"], info["output"], strict=True))
        ]
        height = 60 + 24 * (max(len(slots), len(outputs)) + len(widgets))
        if type_ in SHOWS_PICTURES:
            height += 220
        if any(options.get("multiline") for _, _, options in declared):
            height += 120
        node = {"type": type_, "inputs": slots, "outputs": outputs, "widgets_values": widgets}
        if title:
            node["title"] = title
        self._place(node, height)
        return [Slot(node_id, i, output["type"]) for i, output in enumerate(outputs)]

    def _place(self, node: dict[str, Any], height: int, width: int = NODE_WIDTH) -> None:
        placed = {
            "id": len(self.nodes) + 1,
            "pos": [self._x, self._y],
            "size": [width, height],
            "flags": {},
            "order": len(self.nodes),
            "mode": 0,
            "properties": self._properties(node) if node["type"] not in NOT_EXECUTED else {},
        }
        self.nodes.append({**placed, **node})
        self._y += height + ROW_GAP
        self._width = max(self._width, width)
        if self.groups:
            self.groups[-1][1].append(self.nodes[-1])

    def files_of(self, node: dict[str, Any]) -> list[str]:
        """Names of the model files that a node will read."""
        return [value for value in node["widgets_values"] if isinstance(value, str) and value in self.models]

    def _properties(self, node: dict[str, Any]) -> dict[str, Any]:
        """What the front end keeps about a node: where it and its files come from."""
        ours = node["type"].startswith(OURS)
        source = (PROJECT["name"], PROJECT["version"]) if ours else ("comfy-core", "0.3.75")
        named = {"Node name for S&R": node["type"], "cnr_id": source[0], "ver": source[1]}
        models = [self.models[name] for name in dict.fromkeys(self.files_of(node))]
        return {**named, "models": models} if models else named

    def to_json(self) -> dict[str, Any]:
        return {
            "last_node_id": len(self.nodes),
            "last_link_id": len(self.links),
            "nodes": self.nodes,
            "links": self.links,
            "groups": [group_box(n, title, members) for n, (title, members) in enumerate(self.groups, start=1)],
            "config": {},
            "extra": {},
            "version": 0.4,
        }


def group_box(id_: int, title: str, members: list[dict[str, Any]]) -> dict[str, Any]:
    """A box around its members, with room for its own title and theirs."""
    left = min(node["pos"][0] for node in members) - GROUP_PADDING
    top = min(node["pos"][1] for node in members) - NODE_TITLE - GROUP_TITLE
    right = max(node["pos"][0] + node["size"][0] for node in members) + GROUP_PADDING
    bottom = max(node["pos"][1] + node["size"][1] for node in members) + GROUP_PADDING
    bounding = [left, top, right - left, bottom - top]
    return {"id": id_, "title": title, "bounding": bounding, "color": "#3f789e", "font_size": 24, "flags": {}}


def save(workflow: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(workflow, indent=1, ensure_ascii=False) + "\n")


DEMO_NODES = {
    "demo": {"class_type": "DreamODemoModels", "inputs": {"seed": 0}},
    "demo_control": {"class_type": "DreamODemoControlNet", "inputs": {"layout": "union", "seed": 0}},
    "demo_sdxl": {"class_type": "RealCustomDemoModels", "inputs": {"seed": 0}},
    "demo_uso": {"class_type": "DreamODemoUSO", "inputs": {"seed": 0}},
}
LOADERS = {
    "UNETLoader": ["demo", 0],
    "DualCLIPLoader": ["demo", 1],
    "CLIPLoader": ["demo", 1],
    "VAELoader": ["demo", 2],
    "CheckpointLoaderSimple": ["demo_sdxl", 0],
    "RealCustomLoader": ["demo_sdxl", 3],
    "ControlNetLoader": ["demo_control", 0],
    "ModelPatchLoader": ["demo_uso", 0],
    "CLIPVisionLoader": ["demo_uso", 1],
}
"""The loaders that demo models stand in for: their node and its output that is the loader's first."""


def use_demo_models(prompt: dict[str, Any]) -> dict[str, Any]:
    """The prompt with its model loaders replaced by the demo loaders; everything else stays as it is."""
    return replace_loaders(prompt, DEMO_NODES, LOADERS)

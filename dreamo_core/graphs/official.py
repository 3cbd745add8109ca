"""The official pack's three nodes and those that stand in for them, input by input.

The stand-ins take and give what the official nodes do, so a graph keeps its shape. The table serves the host's node
replacement (newer hosts) and `python -m dreamo_core.graphs convert` (any host).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

OFFICIAL_TASKS = {"ip": "subject", "id": "identity", "style": "style"}
"""Official tasks, and what they are called here."""


@dataclass(frozen=True)
class Replacement:
    """What stands in for an official node.

    Attributes:
        old, new: node ids.
        inputs: official names of inputs, and ours; what is not here is left out.
        widgets: official names of the widgets, in the order in which a graph saves their values.
        defaults: of widgets that graphs of earlier versions of the official pack do not have; they came in front.
    """

    old: str
    new: str
    inputs: dict[str, str]
    widgets: tuple[str, ...] = ()
    defaults: tuple[Any, ...] = ()


REPLACEMENTS = (
    Replacement("DreamOProcessorLoader", "DreamOOfficialProcessor", {}),
    Replacement(
        "DreamORefEncode",
        "DreamOOfficialReference",
        {"pixels": "pixels", "vae": "vae", "resolution": "resolution", "ref_task": "ref_task"},
        ("resolution", "ref_task"),
        (512,),
    ),
    Replacement(
        "ApplyDreamO",
        "DreamOOfficialApply",
        {"model": "model", "ref1": "ref1", "ref2": "ref2", "ref3": "ref3"},
    ),
)
_BY_OLD = {replacement.old: replacement for replacement in REPLACEMENTS}


def _full(replacement: Replacement, saved: list[Any]) -> list[Any]:
    """Widget values with those in front that an earlier version did not have yet."""
    missing = len(replacement.widgets) - len(saved)
    if not 0 <= missing <= len(replacement.defaults):
        raise ValueError(
            f"A {replacement.old} node has {len(saved)} saved values where {len(replacement.widgets)} are known; this "
            "graph is of a version of the official pack that is not known here."
        )
    return [*replacement.defaults[:missing], *saved]


def _convert_node(node: dict[str, Any], replacement: Replacement, links: dict[int, list]) -> set[int]:
    """Change a node in place; the links that end with it."""
    node["type"] = replacement.new
    node["properties"] = {
        key: value for key, value in node.get("properties", {}).items() if key not in ("cnr_id", "aux_id", "ver")
    } | {"Node name for S&R": replacement.new}
    node["widgets_values"] = _full(replacement, list(node.get("widgets_values") or []))
    kept, gone = [], set()
    for slot in node.get("inputs", []):
        if slot["name"] in replacement.inputs:
            kept.append({**slot, "name": replacement.inputs[slot["name"]]})
        elif slot.get("link") is not None:
            gone.add(slot["link"])
    node["inputs"] = kept
    for place, slot in enumerate(kept):
        if slot.get("link") in links:
            links[slot["link"]][4] = place
    return gone


def convert(graph: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """A graph as the front end saves it, with the official nodes replaced, and how many there were.

    Everything else stays where it is. Nothing is changed in `graph` itself.

    Raises:
        ValueError: not such a graph (the API's format has no `nodes`), or values that no known version saves.
    """
    if not isinstance(graph, dict) or not isinstance(graph.get("nodes"), list) or "links" not in graph:
        raise ValueError("This is no graph as the front end saves it; use Workflow > Save (not Export API) in ComfyUI.")
    graph = copy.deepcopy(graph)
    links = {link[0]: link for link in graph["links"]}
    gone: set[int] = set()
    found = [node for node in graph["nodes"] if node.get("type") in _BY_OLD]
    for node in found:
        gone |= _convert_node(node, _BY_OLD[node["type"]], links)
    graph["links"] = [link for link in graph["links"] if link[0] not in gone]
    for node in graph["nodes"]:
        for slot in node.get("outputs", []):
            if slot.get("links"):
                slot["links"] = [link for link in slot["links"] if link not in gone]
    return graph, len(found)


def host_replacements() -> list[dict[str, Any]]:
    """The table as keyword arguments of the host's `NodeReplace`, one for each official node.

    The front end replaces nodes of a graph by it. For prompts that are sent with the old ids the server does so too,
    but fails where an input of the table is not connected (0.33); `convert` has no such limit.
    """
    return [
        {
            "old_node_id": r.old,
            "new_node_id": r.new,
            "old_widget_ids": list(r.widgets) or None,
            "input_mapping": [{"new_id": new, "old_id": old} for old, new in r.inputs.items()],
            "output_mapping": None,
        }
        for r in REPLACEMENTS
    ]

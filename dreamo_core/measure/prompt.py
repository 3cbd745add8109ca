"""Graphs as the front end saves them, as the prompts that a server runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
NOT_EXECUTED = {"Note", "MarkdownNote"}
BYPASSED, MUTED = 4, 2


def inputs_of(info: dict[str, Any]) -> list[tuple[str, Any, dict[str, Any]]]:
    """All inputs of a node class, in the front end's order: name, type, options."""
    found = []
    for group in ("required", "optional"):
        for name, spec in info["input"].get(group, {}).items():
            found.append((name, spec[0], spec[1] if len(spec) > 1 else {}))
    return found


def is_widget(kind: Any, options: dict[str, Any]) -> bool:
    return (isinstance(kind, list) or kind in WIDGET_TYPES) and not options.get("forceInput")


def has_control(name: str, kind: Any, options: dict[str, Any]) -> bool:
    """Whether the front end puts a "control after generate" widget behind this one."""
    return bool(options.get("control_after_generate")) or (kind == "INT" and name in ("seed", "noise_seed"))


def has_upload(options: dict[str, Any]) -> bool:
    """Whether the front end puts an upload button behind this one."""
    return bool(options.get("image_upload"))


def default_of(kind: Any, options: dict[str, Any]) -> Any:
    if "default" in options:
        return options["default"]
    choices = kind if isinstance(kind, list) else options.get("options", [])
    if choices:
        return choices[0]
    return {"INT": 0, "FLOAT": 0.0, "BOOLEAN": False}.get(kind, "")


def widget_values(node: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    """A saved node's widget values by input name; widgets that came after it was saved say how it was before.

    Raises:
        ValueError: more values were saved than the class has widgets.
    """
    saved, values = list(node.get("widgets_values", [])), {}
    for name, kind, options in inputs_of(info):
        if not is_widget(kind, options):
            continue
        values[name] = saved.pop(0) if saved else options.get("before", default_of(kind, options))
        if has_control(name, kind, options) or has_upload(options):
            del saved[:1]
    if saved:
        raise ValueError(f"{node['type']} (node {node['id']}) has {len(saved)} saved values too many.")
    return values


def to_prompt(workflow: dict[str, Any], object_info: dict[str, Any]) -> dict[str, Any]:
    """What the front end would send to the server for this workflow.

    Raises:
        ValueError: a node class that the server does not know.
    """
    links = {link[0]: link for link in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in NOT_EXECUTED or node.get("mode") in (BYPASSED, MUTED):
            continue
        if node["type"] not in object_info:
            raise ValueError(f"The server has no node {node['type']} (node {node['id']}).")
        inputs = widget_values(node, object_info[node["type"]])
        for slot in node["inputs"]:
            if slot["link"] is not None:
                _, source, index, *_ = links[slot["link"]]
                inputs[slot["name"]] = [str(source), index]
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def replace_loaders(
    prompt: dict[str, Any], nodes: Mapping[str, dict[str, Any]], outputs: Mapping[str, list[Any]]
) -> dict[str, Any]:
    """The prompt with some of its loaders replaced by other nodes; everything else stays as it is.

    Args:
        nodes: the other nodes, by their ids.
        outputs: class of a loader to the output, [id, index], that stands in for its first one; its others are
            stood in for by those that follow.
    """

    def moved(value: Any) -> Any:
        if not isinstance(value, list) or value[0] not in targets:
            return value
        node, first = targets[value[0]]
        return [node, first + value[1]]

    swapped = dict(nodes)
    targets = {node: outputs[n["class_type"]] for node, n in prompt.items() if n["class_type"] in outputs}
    for node, content in prompt.items():
        if node in targets:
            continue
        swapped[node] = {**content, "inputs": {name: moved(value) for name, value in content["inputs"].items()}}
    return swapped

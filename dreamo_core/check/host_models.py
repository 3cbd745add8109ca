"""What the server offers, and putting the user's own files into a graph that names others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..measure.graphs import Models
from ..measure.prompt import inputs_of, replace_loaders
from .steps import Skip


@dataclass(frozen=True)
class Loaders:
    """Other loaders in place of the host's, such as those for GGUF files.

    Attributes:
        nodes: by id.
        outputs: class of a loader of the host to the output, [id, index], that stands in for it.
    """

    nodes: Mapping[str, dict[str, Any]]
    outputs: Mapping[str, list[Any]]


def read_loaders(path: Path) -> Loaders:
    """From JSON: {"nodes": {…}, "outputs": {"UNETLoader": ["my_unet", 0], …}}.

    Raises:
        ValueError: unreadable.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Loaders(found["nodes"], found["outputs"])
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f'{path.name} is not of the form {{"nodes": {{}}, "outputs": {{}}}}: {error!r}.') from error


def models_of(loaders: Loaders) -> Models:
    """FLUX.1 by these loaders.

    Raises:
        ValueError: one of the three is not replaced.
    """
    kinds = ("UNETLoader", "DualCLIPLoader", "VAELoader")
    if missing := [kind for kind in kinds if kind not in loaders.outputs]:
        raise ValueError(f"The loaders do not say what stands in for {', '.join(missing)}.")
    return Models(loaders.nodes, *(loaders.outputs[kind] for kind in kinds))


def choices_of(kind: Any, options: Mapping[str, Any]) -> list[str] | None:
    """What a combo offers, or None for another kind of input."""
    if isinstance(kind, list):
        return kind
    return list(options.get("options", [])) if kind == "COMBO" else None


def fit_files(
    prompt: dict[str, Any], info: Mapping[str, Any], loaders: Loaders | None, instead: Mapping[str, str]
) -> dict[str, Any]:
    """The prompt with files that this server has.

    A name that the server does not list is looked for in its sub-folders, then replaced by `instead`.

    Args:
        instead: names of the graphs to names of the user.

    Raises:
        Skip: a file, or a node, that the server does not have.
    """
    if loaders is not None:
        prompt = replace_loaders(prompt, loaders.nodes, loaders.outputs)
    fitted, missing = {}, []
    for node, content in prompt.items():
        kind = content["class_type"]
        if kind not in info:
            raise Skip(f"The server has no node {kind}.")
        inputs = dict(content["inputs"])
        for name, input_kind, options in inputs_of(info[kind]):
            value, choices = inputs.get(name), choices_of(input_kind, options)
            if kind == "LoadImage" or not choices or not isinstance(value, str) or value in choices:
                continue
            wanted = instead.get(value, value)
            found = [choice for choice in choices if Path(choice.replace("\\", "/")).name == wanted]
            if found:
                inputs[name] = found[0]
            else:
                missing.append(f"{value} ({kind})")
        fitted[node] = {**content, "inputs": inputs}
    if missing:
        raise Skip(f"The server does not offer {', '.join(missing)}.")
    return fitted

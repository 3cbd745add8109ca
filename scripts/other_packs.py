#!/usr/bin/env python3
"""Run this pack beside others, through the real server: every node of theirs that changes a model, in two positions.

    python3 scripts/host.py exec scripts/other_packs.py FOLDER... [--out table.md]   packs, as they lie in custom_nodes
    python3 scripts/host.py exec scripts/other_packs.py --host                       the host's own model patches

A node counts if it takes one MODEL and gives one, and its other inputs have defaults. It goes in front of DreamO Apply
and behind it, with two references at different strengths; then the plain graph runs again and must not have changed.
Packs are linked for the run, and nothing of theirs is kept.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from comfy_server import PromptError, Server
from example_inputs import write_example_inputs
from PIL import Image

Prompt = dict[str, dict[str, Any]]


def graph(patch: tuple[str, dict[str, Any]] | None, position: str, references: bool = True) -> Prompt:
    """A small graph in the API's form, with a node of theirs before or after DreamO Apply."""
    prompt: Prompt = {}

    def add(name: str, kind: str, **inputs: Any) -> list:
        prompt[name] = {"class_type": kind, "inputs": inputs}
        return [name, 0]

    def patched(model: list, here: str) -> list:
        return add("patch", patch[0], model=model, **patch[1]) if patch and here == position else model

    add("models", "DreamODemoModels", seed=0)
    positive = add("text", "CLIPTextEncode", clip=["models", 1], text="a cat and a cup")
    negative = add("negative", "CLIPTextEncode", clip=["models", 1], text="")
    model = patched(["models", 0], "before")
    if references:
        add("loader", "DreamOLoader", dreamo_name="dreamo.safetensors")
        chain = None
        for n, strength in enumerate((1.0, 0.7)):
            picture = add(f"picture {n}", "EmptyImage", width=64, height=64, batch_size=1, color=0x3060A0 * (n + 1))
            more = {"references": chain} if chain else {}
            common = {"task": "style", "resolution": 64, "strength": strength, "start_percent": 0.0, "end_percent": 1.0}
            chain = add(f"reference {n}", "DreamOReference", image=picture, vae=["models", 2], **common, **more)
        add("apply", "DreamOApply", model=model, positive=positive, references=chain, dreamo_model=["loader", 0])
        model, positive = ["apply", 0], ["apply", 1]
    model = patched(model, "after")
    latent = add("latent", "EmptySD3LatentImage", width=96, height=96, batch_size=1)
    sampled = add(
        "sampler", "KSampler", model=model, positive=positive, negative=negative, latent_image=latent, seed=1, steps=6,
        cfg=2.0, sampler_name="euler", scheduler="simple", denoise=1.0,
    )  # fmt: skip
    add("show", "PreviewImage", images=add("decode", "VAEDecode", samples=sampled, vae=["models", 2]))
    return prompt


def model_patches(info: dict[str, Any], modules: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Nodes of these Python modules that change one model, with the defaults of what else they need."""
    found = {}
    for name, node in sorted(info.items()):
        required = node.get("input", {}).get("required", {})
        if not node.get("python_module", "").startswith(modules) or list(node.get("output", ())) != ["MODEL"]:
            continue
        values: dict[str, Any] = {}
        for key, (kind, *options) in required.items():
            default = (options[0] if options else {}).get("default")
            if kind != "MODEL":
                choices = kind if isinstance(kind, list) else (options[0] if options else {}).get("options")
                values[key] = default if default is not None else (choices[0] if choices else None)
        models = [key for key, (kind, *_) in required.items() if kind == "MODEL"]
        if models == ["model"] and None not in values.values() and not name.startswith("DreamO"):
            found[name] = values
    return found


def picture(server: Server, prompt: Prompt) -> np.ndarray:
    file = server.image_files({"show": server.run(prompt)["show"]}, "temp")[0]
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"), np.int16)


def attempt(server: Server, prompt: Prompt) -> np.ndarray | str:
    try:
        return picture(server, prompt)
    except PromptError as error:
        return str(error).replace("\n", " ")[:160]


def verdict(before: np.ndarray | str, after: np.ndarray | str, alone: np.ndarray | str) -> str:
    if isinstance(before, str) or isinstance(after, str):
        said = before if isinstance(before, str) else after
        return f"error: {said}" if not isinstance(alone, str) else f"fails without references too: {alone}"
    same = "equal in both positions" if np.array_equal(before, after) else (
        f"positions differ by {np.abs(before - after).max()} of 255"
    )  # fmt: skip
    acts = "references act" if isinstance(alone, str) or not np.array_equal(before, alone) else "REFERENCES DO NOT ACT"
    return f"{same}; {acts}"


def check(server: Server, modules: tuple[str, ...]) -> list[tuple[str, str, str]]:
    """(module, node, result) for every model patch of these modules; the last row is the plain graph again."""
    info = server.object_info()
    baseline = picture(server, graph(None, "none"))
    plain = picture(server, graph(None, "none", references=False))
    rows = []
    for name, values in model_patches(info, modules).items():
        patch = (name, values)
        before, after = (attempt(server, graph(patch, position)) for position in ("before", "after"))
        alone = attempt(server, graph(patch, "before", references=False))
        rows.append((info[name]["python_module"], name, verdict(before, after, alone)))
        print(" | ".join(rows[-1]), flush=True)
    again = np.array_equal(picture(server, graph(None, "none")), baseline)
    unchanged = again and np.array_equal(picture(server, graph(None, "none", references=False)), plain)
    rows.append(("", "the plain graphs afterwards", "bit-identical" if unchanged else "CHANGED"))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--host", action="store_true", help="the host's own model patches")
    parser.add_argument("--out", type=Path, help="write the table there, as Markdown")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dreamo-other-packs-", ignore_cleanup_errors=True) as scratch:
        base = Path(scratch)
        write_example_inputs(base)
        (base / "custom_nodes").mkdir(parents=True, exist_ok=True)
        for folder in arguments.folders:
            (base / "custom_nodes" / folder.resolve().name).symlink_to(folder.resolve(), target_is_directory=True)
        modules = tuple(f"custom_nodes.{folder.resolve().name}" for folder in arguments.folders)
        with Server(base) as server:
            rows = check(server, modules + (("comfy_extras", "nodes") if arguments.host else ()))
    table = "| module | node | result |\n|---|---|---|\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows)
    print(table)
    if arguments.out:
        arguments.out.write_text(table + "\n", encoding="utf-8")
    return 0 if rows[-1][2] == "bit-identical" else 1


if __name__ == "__main__":
    sys.exit(main())

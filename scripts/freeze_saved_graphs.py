"""Keeps what this version saves, so that later versions can prove that they still open it. Run it for each release.

    python3 scripts/host.py exec scripts/freeze_saved_graphs.py

Writes into `tests/fixtures/saved`: the inputs and outputs of every node (`signatures.json`), and under the version's
name a graph with every node and unusual widget values, saved by the real front end, with the prompt it sent for it.
"""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

from comfy_server import Server
from example_inputs import write_example_inputs
from graph import MUTED, Graph, default_of, inputs_of, is_widget
from screenshot import browser, open_front_end, write_settings

REPO = Path(__file__).resolve().parent.parent
SAVED = REPO / "tests" / "fixtures" / "saved"

# Combos whose choices come from the user's folders or from the host.
FOREIGN_CHOICES = re.compile(r"(_name|image|scheduler)$")

# Widgets that cannot take just any value, or that must, to be of use in the graph below.
CHOSEN: dict[str, dict[str, Any]] = {
    "DreamOLoader": {"dreamo_name": "dreamo.safetensors"},
    # The example files have no quality LoRAs.
    "DreamOModelStack": {"preset": "custom", "quality_pos": 0.0, "quality_neg": 0.0},
    "DreamOReference": {"resolution": 128, "start_percent": 0.1, "end_percent": 0.9, "background": "keep"},
    "DreamOReferences": {"resolution": 96, "background": "keep"},
    "DreamOReferenceBatch": {"resolution": 64, "background": "keep", "folder": ""},
    "DreamOLoadPicture": {"image": "dreamo_cat.png"},
    "DreamOTrueCFGRange": {"start_percent": 0.2, "end_percent": 0.8},
    "DreamOSpeed": {"preset": "custom", "width": 128, "height": 128, "steps": 3},
    "DreamORouting": {"blocks": "double", "masks_from": "extra first pass", "source": "words"},
    "DreamORegion": {"reference": 2},
    "DreamORoutingWords": {"text": "a cat and a cup of coffee", "words": "cat\n\ncup"},
    "DreamORoutedSampler": {"seed": 11, "steps": 3, "cfg": 1.5, "sampler_name": "heun", "scheduler": "beta"},
    "DreamOTextEncode": {"prompt": "a cat from [ref#1] and a cup from [ref#2]"},
    "DreamODemoModels": {"seed": 3, "weights": "random"},
}


def kind_name(kind: Any) -> str:
    return "COMBO" if isinstance(kind, list) else kind


def signatures(object_info: dict[str, Any]) -> dict[str, Any]:
    """What saved graphs rely on, by node: widgets in the order they are saved in, sockets by name, output types."""
    found = {}
    for node_id, info in sorted(object_info.items()):
        if not node_id.startswith("DreamO"):
            continue
        widgets, sockets = [], {}
        for name, kind, options in inputs_of(info):
            if is_widget(kind, options):
                limits = {key: options[key] for key in ("min", "max") if key in options}
                choices = kind if isinstance(kind, list) else options.get("options")
                if choices and not FOREIGN_CHOICES.search(name):
                    limits["choices"] = choices
                widgets.append({"name": name, "type": kind_name(kind), **limits})
            else:
                sockets[name] = {"type": kind, "required": name in info["input"].get("required", {})}
        found[node_id] = {"widgets": widgets, "sockets": sockets, "outputs": info["output"]}
    return found


def unusual(name: str, kind: Any, options: dict[str, Any], place: int) -> Any:
    """A valid value other than the default, and another one at each place, so that a shifted one shows."""
    default = default_of(kind, options)
    choices = kind if isinstance(kind, list) else options.get("options")
    if choices:
        return next((choice for choice in choices if choice != default), default)
    if kind == "BOOLEAN":
        return not default
    if kind in ("INT", "FLOAT"):
        step = options.get("step", 1) * (1 + place)
        value = default + step if default + step <= options["max"] else default - step
        return value if kind == "INT" else round(value, 3)
    return f"some {name}"


class EveryNode(Graph):
    """A graph under construction that leaves out what this version of the pack does not have."""

    def put(self, type_: str, **inputs: Any) -> list:
        info = self.object_info[type_]
        known = {name for name, _, _ in inputs_of(info)}
        values = {
            name: unusual(name, kind, options, place)
            for place, (name, kind, options) in enumerate(inputs_of(info))
            if is_widget(kind, options)
        }
        chosen = {**values, **CHOSEN.get(type_, {}), **inputs}
        return self.add(type_, **{name: value for name, value in chosen.items() if name in known})

    def has(self, type_: str) -> bool:
        return type_ in self.object_info


def every_node(info: dict[str, Any]) -> dict[str, Any]:
    """All nodes of the pack in one graph that runs on the demo models."""
    graph = EveryNode(info)
    model, clip, vae = graph.put("DreamODemoModels")
    dreamo, *rest = graph.put("DreamOLoader", model=model)
    model = rest[0] if rest else model
    if graph.has("DreamOModelStack"):
        dreamo, model = graph.put("DreamOModelStack", model=model)
        (model,) = graph.put("DreamOLora", model=model)
    graph.column()
    image, *_ = graph.add("LoadImage", image="dreamo_coffee.png")
    chain, _ = graph.put("DreamOReference", image=image, vae=vae)
    prompt = "a cat and a cup"
    if graph.has("DreamOLoadPicture"):
        picture, mask = graph.put("DreamOLoadPicture")
        chain, _ = graph.put("DreamOReferences", vae=vae, image_1=picture, mask_1=mask, references=chain)
        chain, _ = graph.put("DreamOReferenceBatch", vae=vae, images=image, references=chain)
        (prompt,) = graph.put("DreamOStylePrompt", prompt=prompt, references=chain)
    graph.column()
    if graph.has("DreamOTextEncode"):
        (positive,) = graph.put("DreamOTextEncode", clip=clip, dreamo_model=dreamo, references=chain)
        (clip,) = graph.put("DreamOPlaceholders", clip=clip, dreamo_model=dreamo)
    else:
        (positive,) = graph.add("CLIPTextEncode", clip=clip, text=prompt)
        prompt = ""
    (negative,) = graph.add("CLIPTextEncode", clip=clip, text=prompt)
    (latent,) = graph.add("EmptySD3LatentImage", width=128, height=128, batch_size=1)
    (control_net,) = graph.put("DreamODemoControlNet", layout="union")
    positive, negative = graph.add(
        "ControlNetApplyAdvanced", positive=positive, negative=negative, control_net=control_net, image=image, vae=vae
    )
    graph.column()
    model, positive = graph.put("DreamOApply", model=model, positive=positive, references=chain, dreamo_model=dreamo)
    (model,) = graph.put("DreamOTrueCFGRange", model=model)
    if graph.has("DreamOSpeed"):
        model, report = graph.put("DreamOSpeed", model=model, references=chain)
        graph.add("PreviewAny", source=report)
    graph.column()
    if graph.has("DreamORouting"):
        (mask,) = graph.add("SolidMask", value=1.0, width=128, height=64)
        (positive,) = graph.put("DreamORegion", conditioning=positive, mask=mask)
        (positive,) = graph.put("DreamORoutingWords", conditioning=positive, clip=clip)
        (model,) = graph.put("DreamORouting", model=model)
        latent, _, _, maps = graph.put(
            "DreamORoutedSampler", model=model, positive=positive, negative=negative, latent_image=latent
        )
    else:
        (latent,) = graph.add(
            "KSampler",
            model=model,
            positive=positive,
            negative=negative,
            latent_image=latent,
            seed=11,
            steps=3,
            cfg=1.5,
        )
    (image,) = graph.add("VAEDecode", samples=latent, vae=vae)
    graph.add("SaveImage", images=image, filename_prefix="DreamO/every_node")
    if graph.has("DreamORoutingPreview"):
        _, steps = graph.put("DreamORoutingPreview", maps=maps, image=image)
        graph.add("PreviewImage", images=steps)
    graph.column()
    used = {node["type"] for node in graph.nodes}
    for type_ in sorted(info):
        if type_.startswith("DreamO") and type_ not in used:
            # Muted: the graph runs without it, but its widgets are saved.
            graph.put(type_)
            graph.nodes[-1]["mode"] = MUTED
    return graph.to_json()


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    print(path)


def version() -> str:
    return re.search(r'(?m)^version = "(.+)"', (REPO / "pyproject.toml").read_text())[1]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        write_example_inputs(base)
        write_settings(base)
        with Server(base) as server:
            info = server.object_info()
            driver = browser()
            try:
                driver.set_script_timeout(60)
                open_front_end(driver, server.url)
                save = (
                    "const [workflow, done] = arguments;"
                    "app.loadGraphData(workflow).then(() => app.graphToPrompt()).then((p) => done(JSON.stringify(p)))"
                )
                saved = json.loads(driver.execute_async_script(save, every_node(info)))
            finally:
                driver.quit()
    write_json(SAVED / version() / "every_node.json", saved["workflow"])
    write_json(SAVED / version() / "every_node.prompt.json", saved["output"])
    write_json(SAVED / "signatures.json", {"version": version(), "nodes": signatures(info)})


if __name__ == "__main__":
    main()

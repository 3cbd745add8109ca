"""The prompt of a picture with references, in the pack's own nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .prompt import default_of, inputs_of, is_widget

Link = list[Any]
"""An output in a prompt: the node's id and the output's number."""


@dataclass(frozen=True)
class Models:
    """Where the graph takes its models from.

    Attributes:
        nodes: by id.
        model, clip, vae: outputs of FLUX.1, its text encoders and its VAE.
        dreamo: outputs of a DreamO model and of FLUX.1 with its LoRA, where these nodes bring them too.
    """

    nodes: Mapping[str, dict[str, Any]]
    model: Link
    clip: Link
    vae: Link
    dreamo: tuple[Link, Link] | None = None


def loaded(unet: str, clip_l: str, t5: str, vae: str) -> Models:
    """FLUX.1 by the host's own loaders, from its model folders."""
    nodes = {
        "unet": {"class_type": "UNETLoader", "inputs": {"unet_name": unet, "weight_dtype": "default"}},
        "clips": {
            "class_type": "DualCLIPLoader",
            "inputs": {"clip_name1": clip_l, "clip_name2": t5, "type": "flux", "device": "default"},
        },
        "vae": {"class_type": "VAELoader", "inputs": {"vae_name": vae}},
    }
    return Models(nodes, ["unet", 0], ["clips", 0], ["vae", 0])


@dataclass(frozen=True)
class Setting:
    """How pictures are made.

    Attributes:
        stack: inputs of DreamO Model Stack; None without it.
        speed: preset of DreamO Speed, or None for references in every step.
        routing: inputs of DreamO Routing that differ from its defaults, or None for no routing.
        resolution: of references.
    """

    stack: Mapping[str, Any] | None = field(default_factory=lambda: {"preset": "v1.1", "use_turbo": True})
    speed: str | None = None
    routing: Mapping[str, Any] | None = None
    steps: int = 12
    guidance: float = 4.5
    width: int = 1024
    height: int = 1024
    resolution: int = 512


def node_with_defaults(object_info: Mapping[str, Any], type_: str, **inputs: Any) -> dict[str, Any]:
    """A node of a prompt whose widgets have their defaults but for `inputs`."""
    declared = inputs_of(object_info[type_])
    defaults = {name: default_of(kind, options) for name, kind, options in declared if is_widget(kind, options)}
    return {"class_type": type_, "inputs": defaults | inputs}


def reference_prompt(
    object_info: Mapping[str, Any], models: Models, setting: Setting, text: str,
    references: Sequence[tuple[str, str]], seed: int, prefix: str = "DreamO/bench", latent: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """An API prompt for one picture.

    Its nodes of interest: `sample`, `save` (the picture), `latent_file` (with `latent`), `regions` (with routing).

    Args:
        object_info: of the server that will run it.
        references: (name of a picture in the server's input folder, task) in the order of the chain.
        prefix: of the saved files' names.
        latent: whether the sampled latent is saved too.
    """
    add = lambda type_, **inputs: node_with_defaults(object_info, type_, **inputs)  # noqa: E731
    nodes: dict[str, Any] = dict(models.nodes)
    dreamo, model = models.dreamo or (None, models.model)
    if setting.stack is not None:
        nodes["dreamo"] = add("DreamOModelStack", model=models.model, **setting.stack)
        dreamo, model = ["dreamo", 0], ["dreamo", 1]
    if dreamo is not None:
        encode = {"dreamo_model": dreamo, "prompt": text, "guidance": setting.guidance}
        nodes["text"] = add("DreamOTextEncode", clip=models.clip, **encode)
    else:
        nodes["text"] = add("CLIPTextEncodeFlux", clip=models.clip, clip_l=text, t5xxl=text, guidance=setting.guidance)
    nodes["empty"] = add("CLIPTextEncode", clip=models.clip, text="")
    nodes["size"] = add("EmptySD3LatentImage", width=setting.width, height=setting.height, batch_size=1)
    positive, chain = ["text", 0], {}
    for n, (name, task) in enumerate(references, start=1):
        nodes[f"image{n}"] = add("LoadImage", image=name)
        nodes[f"reference{n}"] = add(
            "DreamOReference", image=[f"image{n}", 0], vae=models.vae, task=task, resolution=setting.resolution, **chain
        )
        chain = {"references": [f"reference{n}", 0]}
    if chain:
        nodes["apply"] = add("DreamOApply", model=model, positive=positive, dreamo_model=dreamo, **chain)
        model, positive = ["apply", 0], ["apply", 1]
    if setting.speed is not None:
        nodes["speed"] = add("DreamOSpeed", model=model, preset=setting.speed)
        model = ["speed", 0]
    if setting.routing is not None:
        nodes["routing"] = add("DreamORouting", model=model, **setting.routing)
        model = ["routing", 0]
    sampling = {
        "model": model, "positive": positive, "negative": ["empty", 0], "latent_image": ["size", 0], "seed": seed,
        "steps": setting.steps, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple",
    }  # fmt: skip
    if setting.routing is not None:
        nodes["sample"] = add("DreamORoutedSampler", live_maps=False, **sampling)
        nodes["mask_pictures"] = {"class_type": "MaskToImage", "inputs": {"mask": ["sample", 1]}}
        nodes["regions"] = add("SaveImage", images=["mask_pictures", 0], filename_prefix=f"{prefix}_regions")
    else:
        nodes["sample"] = add("KSampler", **sampling)
    nodes["decode"] = {"class_type": "VAEDecode", "inputs": {"samples": ["sample", 0], "vae": models.vae}}
    nodes["save"] = add("SaveImage", images=["decode", 0], filename_prefix=prefix)
    if latent:
        nodes["latent_file"] = add("SaveLatent", samples=["sample", 0], filename_prefix=prefix)
    return nodes

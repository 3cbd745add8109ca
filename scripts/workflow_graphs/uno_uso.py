"""Graphs of UNO and USO, and of DreamO beside USO."""

from __future__ import annotations

from typing import Any

from .base import FluxGraph, picture_of

UXO = "UNO, USO"
"""The profile of a reference that is for one of these two."""
UNO_LORA = "dit_lora.safetensors"
USO_LORA = "uso-flux1-dit-lora-v1.safetensors"


def add_lora(graph: FluxGraph, name: str, strength: float) -> None:
    (graph.model,) = graph.add("DreamOLora", model=graph.model, lora_name=name, strength=strength)


def add_uso_style(graph: FluxGraph, picture: str) -> None:
    """One style picture on the model, through the host's own nodes."""
    graph.group("Style")
    image, *_ = graph.add("LoadImage", title="Style", image=picture)
    (vision,) = graph.add("CLIPVisionLoader", clip_name="sigclip_vision_patch14_384.safetensors")
    (projector,) = graph.add("ModelPatchLoader", name="uso-flux1-projector-v1.safetensors")
    graph.column()
    # USO saw its style pictures squeezed to a square, not cut to one.
    (seen,) = graph.add("CLIPVisionEncode", clip_vision=vision, image=image, crop="none")
    (graph.model,) = graph.add("USOStyleReference", model=graph.model, model_patch=projector, clip_vision_output=seen)


def uno_subjects(info: dict[str, Any]) -> dict[str, Any]:
    graph = FluxGraph(
        info,
        "# UNO: two subjects\nUNO's LoRA, *DreamO Apply* without a DreamO file, references with the profile *UNO, "
        "USO*. Its authors give one reference a longer side of 512, two 320, more 256; pictures have sides of 512 to "
        "704.",
        dreamo=False,
    )
    add_lora(graph, UNO_LORA, 1.0)
    graph.group("References")
    for picture in ("dreamo_cat.png", "dreamo_coffee.png"):
        graph.column()
        graph.reference(picture, task="subject", resolution=320, profile=UXO)
    graph.group("Prompt")
    positive = graph.prompt("the cat looks into the cup of coffee", guidance=4.0)
    negative, latent = graph.empty_negative(), graph.empty_latent(512, 512)
    return picture_of(graph, "uno_subjects", positive, negative, latent, steps=25)


def uso_subject_style(info: dict[str, Any]) -> dict[str, Any]:
    graph = FluxGraph(
        info,
        "# USO: a subject in a style\nThe subject is a reference, the style goes through the host's "
        "*USOStyleReference*; a second one behind it adds a second style. An empty prompt keeps the subject's layout. "
        "Also for 1024 × 1024. One picture at a time: the host's style node does not take batches.",
        dreamo=False,
    )
    add_lora(graph, USO_LORA, 1.0)
    add_uso_style(graph, "dreamo_sketch.png")
    graph.group("References")
    graph.reference("dreamo_cat.png", task="subject", resolution=512, profile=UXO)
    graph.group("Prompt")
    positive = graph.prompt("a cat on a stone wall at night", guidance=4.0)
    negative, latent = graph.empty_negative(), graph.empty_latent(768, 768)
    return picture_of(graph, "uso_subject_style", positive, negative, latent, steps=20)


def dreamo_subject_uso_style(info: dict[str, Any]) -> dict[str, Any]:
    graph = FluxGraph(
        info,
        "# A DreamO subject in a USO style\nDreamO reads the reference, USO's projector gives the style. Defined and "
        "tested token by token, but the two were trained apart and **pictures of the released weights together have "
        "not been judged**. The strength of USO's LoRA (0.5) is a guess: more for the style, less for the subject. "
        "One picture at a time.",
    )
    add_lora(graph, USO_LORA, 0.5)
    add_uso_style(graph, "dreamo_sketch.png")
    graph.references(("dreamo_cat.png", "subject"))
    graph.group("Prompt")
    positive = graph.prompt("a cat on a stone wall at night")
    negative, latent = graph.empty_negative(), graph.empty_latent(768, 768)
    return picture_of(graph, "dreamo_subject_uso_style", positive, negative, latent)

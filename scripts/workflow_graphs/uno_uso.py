"""Graphs of UNO and USO, and of DreamO beside USO."""

from __future__ import annotations

from typing import Any

from .base import FluxGraph, picture_of

UXO = "UNO, USO"
"""The profile of a reference that is for one of these two."""
UNO_LORA = "dit_lora.safetensors"
USO_LORA = "uso-flux1-dit-lora-v1.safetensors"
UMO_LORA = "UMO_UNO.safetensors"


def add_lora(graph: FluxGraph, name: str, strength: float) -> None:
    (graph.model,) = graph.add("DreamOLora", model=graph.model, lora_name=name, strength=strength)


def add_uso_style(graph: FluxGraph, picture: str) -> None:
    """One style picture on the model, through the host's own nodes."""
    graph.group("Style")
    image, *_ = graph.add("DreamOExamplePicture", title="Style", picture=picture)
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
        "USO*. As released, one reference has a longer side of 512 and two or more have 320 each; 25 steps, guidance "
        "4, and pictures of 512 × 512, on which UNO was trained. Larger ones look better and are less stable.",
        dreamo=False,
    )
    add_lora(graph, UNO_LORA, 1.0)
    graph.group("References")
    for picture in ("cat", "coffee"):
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
        "*USOStyleReference*; a second one behind it adds a second style (beta, its authors say). As released: 1024 × "
        "1024, 25 steps, guidance 4.\n\nPrompts: empty keeps the subject's layout (see *uso_style_edit*); “the "
        "cat on a stone wall” places it anew. Without a style picture, “Transform the image into watercolour style” "
        "keeps the layout and “Watercolour style, the cat on a wall” does not.",
        dreamo=False,
    )
    add_lora(graph, USO_LORA, 1.0)
    add_uso_style(graph, "sketch")
    graph.group("References")
    graph.reference("cat", task="subject", resolution=512, profile=UXO)
    graph.group("Prompt")
    positive = graph.prompt("a cat on a stone wall at night", guidance=4.0)
    negative, latent = graph.empty_negative(), graph.empty_latent(1024, 1024)
    return picture_of(graph, "uso_subject_style", positive, negative, latent, steps=25)


def uso_style_edit(info: dict[str, Any]) -> dict[str, Any]:
    graph = FluxGraph(
        info,
        "# USO: this picture in another style, layout kept\nA content picture, a style picture and an empty prompt. "
        "The result has the content picture's own proportions: what the model sees of it, 512 pixels on the longer "
        "side, times 1024/512 (*keep size* in USO's demo).\n\nWithout the style picture: bypass *USOStyleReference* "
        "and write “Transform the image into watercolour style”.",
        dreamo=False,
    )
    add_lora(graph, USO_LORA, 1.0)
    add_uso_style(graph, "sketch")
    graph.group("Content")
    image, *_ = graph.add("DreamOExamplePicture", title="Content", picture="coffee")
    graph.chain, seen = graph.add(
        "DreamOReference", image=image, vae=graph.vae, task="subject", resolution=512, profile=UXO
    )
    graph.column()
    (larger,) = graph.add("ImageScaleBy", title="1024/512", image=seen, upscale_method="area", scale_by=2.0)
    width, height, _ = graph.add("GetImageSize", image=larger)
    (latent,) = graph.add("EmptySD3LatentImage", width=width, height=height, batch_size=1)
    graph.group("Prompt")
    positive, negative = graph.prompt("", guidance=4.0), graph.empty_negative()
    return picture_of(graph, "uso_style_edit", positive, negative, latent, steps=25)


def umo_identities(info: dict[str, Any]) -> dict[str, Any]:
    graph = FluxGraph(
        info,
        "# UMO: several identities without mixing them up\nUMO is UNO's LoRA, tuned further so that each face stays "
        "its own: its file goes in UNO's place, everything else is UNO's. As released: 768 × 768 to 1024 × 1024, 25 "
        "steps, guidance 4, references of 320 for two or more (512 for one). Describe the picture rather than giving "
        "instructions. Its authors call more than two identities unstable.\n\nModels under CC BY-NC 4.0.",
        dreamo=False,
    )
    add_lora(graph, UMO_LORA, 1.0)
    graph.group("References")
    for picture in ("astronaut", "cat"):
        graph.column()
        graph.reference(picture, task="subject", resolution=320, profile=UXO)
    graph.group("Prompt")
    positive = graph.prompt("The woman holds the cat in her arms in a garden.", guidance=4.0)
    negative, latent = graph.empty_negative(), graph.empty_latent(768, 768)
    return picture_of(graph, "umo_identities", positive, negative, latent, steps=25)


def dreamo_subject_uso_style(info: dict[str, Any]) -> dict[str, Any]:
    graph = FluxGraph(
        info,
        "# A DreamO subject in a USO style\nDreamO reads the reference, USO's projector gives the style. Defined and "
        "tested token by token, but the two were trained apart and **pictures of the released weights together have "
        "not been judged**. The strength of USO's LoRA (0.5) is a guess: more for the style, less for the subject. "
        "For batches take *DreamO USO Style* in place of *USOStyleReference*.",
    )
    add_lora(graph, USO_LORA, 0.5)
    add_uso_style(graph, "sketch")
    graph.references(("cat", "subject"))
    graph.group("Prompt")
    positive = graph.prompt("a cat on a stone wall at night")
    negative, latent = graph.empty_negative(), graph.empty_latent(768, 768)
    return picture_of(graph, "dreamo_subject_uso_style", positive, negative, latent)

"""One graph for each task of DreamO: subject, identity, try-on, style."""

from __future__ import annotations

from typing import Any

from .base import FluxGraph, picture_of


def subject(info: dict[str, Any]) -> dict[str, Any]:
    graph = FluxGraph(
        info,
        "# Subject: the smallest graph\nThe cup appears in the scene of the prompt. *subject* is for things, animals "
        "and characters; the background turns white, and the preview shows what the model will see. "
        "The empty latent goes to *DreamO Apply* too: its size sets the noise schedule, as released.",
    )
    graph.references(("coffee", "subject"))
    graph.group("Prompt")
    positive, negative = graph.prompt("a cup of coffee on a beach at sunset, photo"), graph.empty_negative()
    return picture_of(graph, "subject", positive, negative, graph.empty_latent(1024, 1024))


def identity(info: dict[str, Any]) -> dict[str, Any]:
    graph = FluxGraph(
        info,
        "# Identity: a face in another scene\nThe face nearest the middle of the photograph is aligned and cut out; "
        "with several people, *face* chooses one. Clothes come from the prompt: for those of the photograph add it a "
        "second time as *subject*, for others see *try_on_with_identity*.",
    )
    graph.references(("astronaut", "identity"))
    graph.group("Prompt")
    positive = graph.prompt("portrait of a woman in a red coat in a snowy forest, soft light, photo")
    return picture_of(graph, "identity", positive, graph.empty_negative(), graph.empty_latent(1024, 1024))


def try_on_with_identity(info: dict[str, Any]) -> dict[str, Any]:
    graph = FluxGraph(
        info,
        "# Try-on: this person in these clothes\nOne face and two garments, in one box for up to three pictures. "
        "Pictures of garments lying flat work as they are. For a garment that somebody wears, use *DreamO Reference* "
        "with a rough mask over it and *mask_use* set to *region*.\n\nMore garments: connect another box or a "
        "*DreamO Reference* to *references*, up to 9 in all. Name every garment in the prompt.",
    )
    graph.group("References")
    face, *_ = graph.add("DreamOExamplePicture", title="Face", picture="astronaut")
    shirt, *_ = graph.add("DreamOExamplePicture", title="Shirt", picture="shirt")
    trousers, *_ = graph.add("DreamOExamplePicture", title="Trousers", picture="trousers")
    graph.column()
    graph.chain, _ = graph.add(
        "DreamOReferences", vae=graph.vae, image_1=face, task_1="identity", image_2=shirt, task_2="try-on",
        image_3=trousers, task_3="try-on",
    )  # fmt: skip
    graph.group("Prompt")
    positive = graph.prompt(
        "a woman in a striped shirt and blue trousers walks through a city in summer, full body, photo"
    )
    return picture_of(graph, "try_on_with_identity", positive, graph.empty_negative(), graph.empty_latent(768, 1024))


def style(info: dict[str, Any]) -> dict[str, Any]:
    graph = FluxGraph(
        info,
        "# Style: in the manner of this picture\nThe picture is kept whole. DreamO expects “generate a same style "
        "image.” in front of the prompt: *DreamO Style Prompt* puts it there while a style reference is in the "
        "chain.\n\nThe released weights do not combine a style with other references: use it alone.",
    )
    graph.references(("sketch", "style"))
    graph.group("Prompt")
    (text,) = graph.add("DreamOStylePrompt", prompt="a rocket on a launch pad, clouds", references=graph.chain)
    positive = graph.prompt(text)
    graph.column()
    return picture_of(graph, "style", positive, graph.empty_negative(), graph.empty_latent(1024, 1024))

"""Graphs with several references, or several prompts."""

from __future__ import annotations

from typing import Any

from graph import Slot

from .base import FluxGraph, picture_of

CAT_AND_CUP = (("cat", "subject"), ("coffee", "subject"))


def three_in_a_cafe(graph: FluxGraph) -> tuple[Slot, Slot, Slot]:
    """A person, an animal and a thing on one prompt: positive, negative and empty latent."""
    graph.references(("astronaut", "identity"), *CAT_AND_CUP)
    graph.group("Prompt")
    positive = graph.prompt("a woman with a cat on her lap drinks a cup of coffee in a cafe, photo")
    return positive, graph.empty_negative(), graph.empty_latent(1024, 1024)


def three_references(info: dict[str, Any]) -> dict[str, Any]:
    graph = FluxGraph(
        info,
        "# Three references\nA person, an animal and a thing in one picture. The order of the chain is their number: "
        "the first is reference 1.",
    )
    return picture_of(graph, "three_references", *three_in_a_cafe(graph))


def three_references_fast(info: dict[str, Any]) -> dict[str, Any]:
    graph = FluxGraph(
        info,
        "# Three references at little more than the cost of none\n*DreamO Speed* keeps the references' keys and values "
        "from step to step and leaves out background tokens of references with a mask. Its report says what the chain "
        "will cost; *exact* gives the graph without it.",
    )
    positive, negative, latent = three_in_a_cafe(graph)
    graph.group("Picture")
    model, positive = graph.apply(positive, latent)
    model, report = graph.add("DreamOSpeed", model=model, references=graph.chain, preset="balanced")
    graph.add("PreviewAny", title="Expected cost", source=report)
    graph.column()
    latent = graph.sample(model, positive, negative, latent)
    graph.save(graph.decode(latent), "three_references_fast")
    return graph.to_json()


def two_subjects_placeholders(info: dict[str, Any]) -> dict[str, Any]:
    graph = FluxGraph(
        info,
        "# Two subjects by name\nIn the prompt, [ref#1] is the first reference of the chain and [ref#2] the second. "
        "Type [ in the prompt box to choose one.\n\nFor prompt nodes of your own, put *DreamO Placeholders* between "
        "the CLIP loader and them.",
    )
    graph.references(("astronaut", "identity"), ("cat", "subject"))
    graph.group("Prompt")
    positive = graph.prompt_with_placeholders(
        "a woman from [ref#1] and a cat from [ref#2] on a bench in the park, photo"
    )
    return picture_of(
        graph, "two_subjects_placeholders", positive, graph.empty_negative(), graph.empty_latent(1024, 1024)
    )


def routed_references(info: dict[str, Any]) -> dict[str, Any]:
    graph = FluxGraph(
        info,
        "# Two subjects by name, routed\nEach reference acts only where it belongs. The sampler finds the regions "
        "while it runs and shows them in its preview; the second picture shows them over the result, the third step by "
        "step.\n\n*DreamO Routing* sets how. Raise *gamma* for large subjects.",
    )
    graph.references(*CAT_AND_CUP)
    graph.group("Prompt")
    positive = graph.prompt_with_placeholders(
        "a cat from [ref#1] beside a cup of coffee from [ref#2] on a window sill, photo"
    )
    negative, latent = graph.empty_negative(), graph.empty_latent(768, 768)
    graph.group("Picture")
    (model,) = graph.add("DreamORouting", model=graph.model)
    latent, masks, _, maps = graph.add(
        "DreamORoutedSampler", model=model, positive=positive, negative=negative, latent_image=latent, seed=42,
        references=graph.chain, dreamo_model=graph.dreamo,
    )  # fmt: skip
    graph.column()
    image = graph.decode(latent)
    graph.save(image, "routed_references")
    graph.add("MaskPreview", title="One mask a reference", mask=masks)
    graph.column()
    _, steps = graph.add("DreamORoutingPreview", maps=maps, image=image)
    graph.add("PreviewImage", title="Step by step", images=steps)
    return graph.to_json()


def regions_by_hand(info: dict[str, Any]) -> dict[str, Any]:
    graph = FluxGraph(
        info,
        "# Regions by hand\nThe cat acts in the left half, the cup in the right one, nothing in the upper quarter. "
        "Replace the masks by painted ones (right click on an image, *Open in MaskEditor*): any size, soft edges, "
        "several for one reference.\n\nAny sampler works, and no other node of ours is needed.",
    )
    graph.references(*CAT_AND_CUP)
    graph.group("Prompt")
    positive, negative = graph.prompt("a cat and a cup of coffee on a window sill, photo"), graph.empty_negative()
    latent = graph.empty_latent(768, 768)
    graph.group("Masks")
    (black,) = graph.add("SolidMask", value=0.0, width=768, height=768)
    (half,) = graph.add("SolidMask", title="Half", value=1.0, width=384, height=768)
    (sky,) = graph.add("SolidMask", title="Upper quarter", value=1.0, width=768, height=192)
    graph.column()
    masks = [
        graph.add("MaskComposite", title=title, destination=black, source=part, x=x, y=0, operation="add")[0]
        for title, part, x in (("Left", half, 0), ("Right", half, 384), ("Top", sky, 0))
    ]
    graph.group("Regions")
    model, positive = graph.apply(positive, latent)
    for reference, mask in ((1, masks[0]), (2, masks[1]), (0, masks[2])):
        title = f"Region of reference {reference}" if reference else "Background"
        (positive,) = graph.add(
            "DreamORegion", title=title, conditioning=positive, mask=mask, reference=reference, feather=32
        )
    graph.group("Picture")
    latent = graph.sample(model, positive, negative, latent)
    graph.save(graph.decode(latent), "regions_by_hand")
    return graph.to_json()


def batch_of_prompts(info: dict[str, Any]) -> dict[str, Any]:
    graph = FluxGraph(
        info,
        "# A batch of prompts\nOne run draws the same references into several scenes. They are prepared and encoded "
        "once, however many prompts there are, and *DreamO Speed* keeps them cheap while sampling.\n\n"
        "One more prompt: copy the three nodes of a *Prompt* box (Ctrl+C, "
        "then Ctrl+Shift+V, which keeps their links) and add its latent with one more *LatentBatch*. A node of another "
        "pack that gives a list of texts works too, in front of one such box.\n\nFor prompts by chance write "
        "{beach|forest|city} in one of them and raise the number beside *Run*: later runs take the references from "
        "the cache.",
    )
    graph.references(*CAT_AND_CUP)
    graph.group("All prompts")
    (graph.model, _) = graph.add("DreamOSpeed", model=graph.model, preset="balanced", width=768, height=768)
    negative, latent = graph.empty_negative(), graph.empty_latent(768, 768)
    pictures = []
    for number, scene in enumerate(("on a beach at sunset", "in a library, warm light", "in the snow"), start=1):
        graph.group(f"Prompt {number}")
        positive = graph.prompt_with_placeholders(f"a cat from [ref#1] and a cup from [ref#2] {scene}, photo")
        pictures.append(graph.sample(*graph.apply(positive, latent), negative, latent))
    graph.group("Pictures")
    batch = pictures[0]
    for picture in pictures[1:]:
        (batch,) = graph.add("LatentBatch", samples1=batch, samples2=picture)
    graph.save(graph.decode(batch), "batch_of_prompts")
    return graph.to_json()

"""Graphs of FLUX.2 klein and FLUX.1 Kontext: stock nodes put the references there, ours say how they act."""

from __future__ import annotations

from typing import Any

from graph import Graph, Slot

from .base import DOWNLOADS, FluxGraph

SIDE = 1024


class StockGraph(FluxGraph):
    """A graph of another model than FLUX.1-dev, with references of the host's own nodes."""

    def __init__(self, object_info: dict[str, Any], note: str, unet: str, vae: str, **clip: str):
        Graph.__init__(self, object_info, DOWNLOADS)
        self.note(note)
        self.group("Models")
        (self.model,) = self.add("UNETLoader", unet_name=unet, weight_dtype="default")
        (self.clip,) = self.add("DualCLIPLoader" if "clip_name2" in clip else "CLIPLoader", **clip)
        (self.vae,) = self.add("VAELoader", vae_name=vae)
        self.dreamo = self.chain = None

    def reference_latent(self, conditioning: Slot, latent: Slot) -> Slot:
        (conditioning,) = self.add("ReferenceLatent", conditioning=conditioning, latent=latent)
        return conditioning

    def control(self, conditioning: Slot, reference: int, **widgets: Any) -> Slot:
        """Our settings for one reference."""
        self.model, conditioning = self.add(
            "DreamOReferenceControl", title=f"Reference {reference}", model=self.model, conditioning=conditioning,
            reference=reference, **widgets,
        )  # fmt: skip
        return conditioning

    def region(self, conditioning: Slot, mask: Slot, reference: int) -> Slot:
        (conditioning,) = self.add(
            "DreamORegion", title=f"Region of reference {reference}", conditioning=conditioning, mask=mask,
            reference=reference, feather=32,
        )  # fmt: skip
        return conditioning


def klein(info: dict[str, Any], note: str) -> StockGraph:
    return StockGraph(
        info, note, "flux-2-klein-4b-fp8.safetensors", "flux2-vae.safetensors", clip_name="qwen_3_4b.safetensors",
        type="flux2",
    )  # fmt: skip


def klein_prompt(graph: StockGraph, text: str, *pictures: str) -> Slot:
    """The prompt with pictures as references, each of half a megapixel, by stock nodes."""
    graph.group("References")
    latents = []
    for picture in pictures:
        image, *_ = graph.add("DreamOExamplePicture", picture=picture)
        (image,) = graph.add("ImageScaleToTotalPixels", image=image, upscale_method="area", megapixels=0.5)
        (latent,) = graph.add("VAEEncode", pixels=image, vae=graph.vae)
        latents.append(latent)
        graph.column()
    graph.group("Prompt")
    (positive,) = graph.add("CLIPTextEncode", title="Prompt", clip=graph.clip, text=text)
    for latent in latents:
        positive = graph.reference_latent(positive, latent)
    return positive


def klein_picture(graph: StockGraph, positive: Slot, name: str, report: Slot | None = None) -> dict[str, Any]:
    """Four steps of the distilled klein, as in the host's own example."""
    graph.group("Picture")
    (negative,) = graph.add("ConditioningZeroOut", title="Negative (unused at cfg 1)", conditioning=positive)
    (guider,) = graph.add("CFGGuider", model=graph.model, positive=positive, negative=negative, cfg=1.0)
    (noise,) = graph.add("RandomNoise", noise_seed=42)
    (sampler,) = graph.add("KSamplerSelect", sampler_name="euler")
    (sigmas,) = graph.add("Flux2Scheduler", steps=4, width=SIDE, height=SIDE)
    (latent,) = graph.add("EmptyFlux2LatentImage", width=SIDE, height=SIDE, batch_size=1)
    graph.column()
    latent, _ = graph.add(
        "SamplerCustomAdvanced", noise=noise, guider=guider, sampler=sampler, sigmas=sigmas, latent_image=latent
    )
    graph.save(graph.decode(latent), name)
    if report is not None:
        graph.add("PreviewAny", title="What it costs", source=report)
    return graph.to_json()


def half_masks(graph: StockGraph) -> tuple[Slot, Slot]:
    """The left and the right half of the picture."""
    (black,) = graph.add("SolidMask", value=0.0, width=SIDE, height=SIDE)
    (half,) = graph.add("SolidMask", title="Half", value=1.0, width=SIDE // 2, height=SIDE)
    (left,) = graph.add("MaskComposite", title="Left", destination=black, source=half, x=0, y=0, operation="add")
    (right,) = graph.add(
        "MaskComposite", title="Right", destination=black, source=half, x=SIDE // 2, y=0, operation="add"
    )
    return left, right


def klein_two_people_regions(info: dict[str, Any]) -> dict[str, Any]:
    graph = klein(
        info,
        "# FLUX.2 klein: two kept apart\nStock *ReferenceLatent* nodes put two pictures there; *DreamO Region* says "
        "where each may act, so neither takes on the other's face. *DreamO Reference Control* brings the model that "
        "reads it.\n\nPaint your own masks (right click on an image, *Open in MaskEditor*), or take *DreamO Routing* "
        "in place of the regions to have them found. Needs a ComfyUI that loads klein.",
    )
    positive = klein_prompt(
        graph, "a woman in an orange suit on the left and a cat on the right, in a garden", "astronaut",
        "cat",
    )  # fmt: skip
    graph.group("Masks")
    left, right = half_masks(graph)
    graph.group("Regions")
    positive = graph.control(positive, 0)
    positive = graph.region(graph.region(positive, left, 1), right, 2)
    return klein_picture(graph, positive, "klein_two_people_regions")


def klein_strengths_and_speed(info: dict[str, Any]) -> dict[str, Any]:
    graph = klein(
        info,
        "# FLUX.2 klein: a strength for each reference, and speed\nThe woman at full strength with a little more "
        "detail, the drawing as style only. *DreamO Speed* runs both once and keeps their keys and values; its report "
        "says what that saves.\n\nWith **klein-9b-kv** choose the preset *constant*: it was trained for that, and a "
        "second seed or prompt then has no cost of references at all. Needs a ComfyUI that loads klein.",
    )
    positive = klein_prompt(
        graph, "the woman reads a book in a library, in the style of the drawing", "astronaut",
        "sketch",
    )  # fmt: skip
    graph.group("How they act")
    positive = graph.control(positive, 1, strength=1.1, detail=1.1)
    positive = graph.control(positive, 2, strength=0.8, task="style", curve="style only")
    graph.column()
    graph.model, report = graph.add(
        "DreamOSpeed", model=graph.model, preset="fast", conditioning=positive, steps=4, width=SIDE, height=SIDE
    )
    return klein_picture(graph, positive, "klein_strengths_and_speed", report)


def kontext_protected_region(info: dict[str, Any]) -> dict[str, Any]:
    graph = StockGraph(
        info,
        "# FLUX.1 Kontext: one part of the picture stays\nKontext copies what its reference shows. *DreamO Region* "
        "limits the reference to the protected part, here the lower two thirds with the cup; above, only the prompt "
        "decides. The edge is soft, so light and shadow may follow.\n\nTo protect softly, lower *strength* in "
        "*DreamO Reference Control* instead of painting a region.",
        "flux1-dev-kontext_fp8_scaled.safetensors", "ae.safetensors", clip_name1="clip_l.safetensors",
        clip_name2="t5xxl_fp16.safetensors", type="flux",
    )  # fmt: skip
    graph.group("Picture to edit")
    image, *_ = graph.add("DreamOExamplePicture", picture="coffee")
    (image,) = graph.add("FluxKontextImageScale", image=image)
    (latent,) = graph.add("VAEEncode", pixels=image, vae=graph.vae)
    width, height, _ = graph.add("GetImageSize", image=image)
    graph.group("Prompt")
    (positive,) = graph.add(
        "CLIPTextEncode", title="Prompt", clip=graph.clip, text="put a vase of red tulips behind the cup of coffee"
    )
    positive = graph.reference_latent(positive, latent)
    (positive,) = graph.add("FluxGuidance", conditioning=positive, guidance=2.5)
    negative = graph.empty_negative()
    graph.group("Protected")
    (white,) = graph.add("SolidMask", value=1.0, width=768, height=768)
    (open_,) = graph.add("SolidMask", title="Upper third", value=1.0, width=768, height=256)
    (mask,) = graph.add(
        "MaskComposite", title="Protected", destination=white, source=open_, x=0, y=0, operation="subtract"
    )
    graph.column()
    positive = graph.region(graph.control(positive, 1), mask, 1)
    graph.group("Picture")
    (empty,) = graph.add("EmptySD3LatentImage", width=width, height=height, batch_size=1)
    latent = graph.sample(graph.model, positive, negative, empty, steps=20)
    graph.column()
    graph.save(graph.decode(latent), "kontext_protected_region")
    return graph.to_json()

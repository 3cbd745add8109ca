"""Writes the graphs in `workflows/` from the descriptions below, against a running host's node definitions.

python3 scripts/host.py exec scripts/build_workflows.py
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from comfy_server import Server
from graph import Graph, Slot, save

FOLDER = Path(__file__).resolve().parent.parent / "workflows"

MODELS_NOTE = """## Models
- `models/diffusion_models/flux1-dev.safetensors`
- `models/text_encoders/clip_l.safetensors`, `t5xxl_fp16.safetensors`
- `models/vae/ae.safetensors`
- `models/dreamo` (or `models/loras`): `dreamo.safetensors`, `dreamo_cfg_distill.safetensors`,
`dreamo_sft_lora.safetensors`, `dreamo_dpo_lora.safetensors` (ByteDance/DreamO) and `FLUX.1-Turbo-Alpha.safetensors`
(alimama-creative/FLUX.1-Turbo-Alpha)
"""


class FluxGraph(Graph):
    """A graph that starts with the FLUX.1-dev loaders, under their real file names."""

    def __init__(
        self,
        object_info: dict[str, Any],
        note: str,
        models_note: str = MODELS_NOTE,
        note_height: int = 260,
        dreamo: bool = True,
    ):
        super().__init__(object_info)
        self.note(note + "\n" + models_note, note_height)
        (self.model,) = self.add("UNETLoader", unet_name="flux1-dev.safetensors", weight_dtype="default")
        (self.clip,) = self.add(
            "DualCLIPLoader", clip_name1="clip_l.safetensors", clip_name2="t5xxl_fp16.safetensors", type="flux"
        )
        (self.vae,) = self.add("VAELoader", vae_name="ae.safetensors")
        self.column()
        self.dreamo: Slot | None = None
        if dreamo:
            self.dreamo, self.model = self.add("DreamOModelStack", model=self.model, preset="v1.1", use_turbo=True)
        self.chain: Slot | None = None

    def reference(self, picture: str, **widgets: Any) -> None:
        """A picture and its reference, appended to the chain."""
        image, *_ = self.add("LoadImage", image=picture)
        chained = {"references": self.chain} if self.chain else {}
        self.chain, _ = self.add("DreamOReference", image=image, vae=self.vae, **chained, **widgets)

    def prompt(self, text: str, guidance: float = 4.5) -> Slot:
        (positive,) = self.add("CLIPTextEncode", title="Prompt", clip=self.clip, text=text)
        (positive,) = self.add("FluxGuidance", conditioning=positive, guidance=guidance)
        return positive

    def empty_negative(self) -> Slot:
        (negative,) = self.add("CLIPTextEncode", title="Negative (unused at cfg 1)", clip=self.clip, text="")
        return negative

    def apply(self, positive: Slot) -> tuple[Slot, Slot]:
        dreamo = {"dreamo_model": self.dreamo} if self.dreamo else {}
        model, positive = self.add("DreamOApply", model=self.model, positive=positive, references=self.chain, **dreamo)
        return model, positive

    def sample(self, model: Slot, positive: Slot, negative: Slot, latent: Slot, **widgets: Any) -> Slot:
        settings = {"seed": 42, "steps": 12, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", **widgets}
        (latent,) = self.add(
            "KSampler", model=model, positive=positive, negative=negative, latent_image=latent, **settings
        )
        return latent

    def finish(self, latent: Slot, prefix: str) -> dict[str, Any]:
        (image,) = self.add("VAEDecode", samples=latent, vae=self.vae)
        self.add("SaveImage", images=image, filename_prefix=f"DreamO/{prefix}")
        return self.to_json()


def one_reference(info: dict[str, Any]) -> dict[str, Any]:
    graph = FluxGraph(info, "# One reference\nThe cup on the left appears in the scene of the prompt.")
    graph.column()
    graph.reference("dreamo_coffee.png", task="subject")
    graph.column()
    positive, negative = graph.prompt("a cup of coffee on a beach at sunset, photo"), graph.empty_negative()
    (latent,) = graph.add("EmptySD3LatentImage", width=1024, height=1024, batch_size=1)
    graph.column()
    model, positive = graph.apply(positive)
    latent = graph.sample(model, positive, negative, latent)
    graph.column()
    return graph.finish(latent, "one_reference")


def three_in_a_cafe(graph: FluxGraph) -> tuple[Slot, Slot, Slot, Slot]:
    """A person, an animal and a thing on one prompt: model, positive, negative and empty latent."""
    for picture, task in (
        ("dreamo_astronaut.png", "identity"),
        ("dreamo_cat.png", "subject"),
        ("dreamo_coffee.png", "subject"),
    ):
        graph.column()
        graph.reference(picture, task=task)
    graph.column()
    positive = graph.prompt("a woman with a cat on her lap drinks a cup of coffee in a cafe, photo")
    negative = graph.empty_negative()
    (latent,) = graph.add("EmptySD3LatentImage", width=1024, height=1024, batch_size=1)
    graph.column()
    model, positive = graph.apply(positive)
    return model, positive, negative, latent


def three_references(info: dict[str, Any]) -> dict[str, Any]:
    graph = FluxGraph(
        info,
        "# Three references\nA person, an animal and a thing in one picture. The order of the chain is their number: "
        "the first is reference 1.",
    )
    latent = graph.sample(*three_in_a_cafe(graph))
    graph.column()
    return graph.finish(latent, "three_references")


def three_references_fast(info: dict[str, Any]) -> dict[str, Any]:
    graph = FluxGraph(
        info,
        "# Three references at little more than the cost of none\n*DreamO Speed* keeps the references' keys and values "
        "from step to step and leaves out background tokens of references with a mask. Its report says what the chain "
        "will cost; *exact* gives the graph without it.",
    )
    model, *rest = three_in_a_cafe(graph)
    model, report = graph.add("DreamOSpeed", model=model, references=graph.chain, preset="balanced")
    graph.add("PreviewAny", title="Expected cost", source=report)
    graph.column()
    latent = graph.sample(model, *rest)
    graph.column()
    return graph.finish(latent, "three_references_fast")


def two_subjects_placeholders(info: dict[str, Any]) -> dict[str, Any]:
    graph = FluxGraph(
        info,
        "# Two subjects by name\nIn the prompt, [ref#1] is the first reference of the chain and [ref#2] the second. "
        "Type [ in the prompt box to choose one.\n\nFor prompt nodes of your own, put *DreamO Placeholders* between "
        "the CLIP loader and them.",
    )
    for picture, task in (("dreamo_astronaut.png", "identity"), ("dreamo_cat.png", "subject")):
        graph.column()
        graph.reference(picture, task=task)
    graph.column()
    (positive,) = graph.add(
        "DreamOTextEncode",
        clip=graph.clip,
        dreamo_model=graph.dreamo,
        references=graph.chain,
        prompt="a woman from [ref#1] and a cat from [ref#2] on a bench in the park, photo",
        guidance=4.5,
    )
    negative = graph.empty_negative()
    (latent,) = graph.add("EmptySD3LatentImage", width=1024, height=1024, batch_size=1)
    graph.column()
    model, positive = graph.apply(positive)
    latent = graph.sample(model, positive, negative, latent)
    graph.column()
    return graph.finish(latent, "two_subjects_placeholders")


def routed_references(info: dict[str, Any]) -> dict[str, Any]:
    graph = FluxGraph(
        info,
        "# Routed references\nEach reference acts only where it belongs. The sampler finds the regions while it runs "
        "and shows them in its preview; the second picture shows them over the result, the third step by step.\n\n"
        "*DreamO Routing* sets how. Raise *gamma* for large subjects.",
    )
    for picture, task in (("dreamo_cat.png", "subject"), ("dreamo_coffee.png", "subject")):
        graph.column()
        graph.reference(picture, task=task)
    graph.column()
    positive, negative = graph.prompt("a cat beside a cup of coffee on a window sill, photo"), graph.empty_negative()
    (latent,) = graph.add("EmptySD3LatentImage", width=768, height=768, batch_size=1)
    graph.column()
    (model,) = graph.add("DreamORouting", model=graph.model)
    latent, masks, _, maps = graph.add(
        "DreamORoutedSampler", model=model, positive=positive, negative=negative, latent_image=latent, seed=42,
        references=graph.chain, dreamo_model=graph.dreamo,
    )  # fmt: skip
    graph.column()
    (image,) = graph.add("VAEDecode", samples=latent, vae=graph.vae)
    graph.add("SaveImage", images=image, filename_prefix="DreamO/routed_references")
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
    for picture, task in (("dreamo_cat.png", "subject"), ("dreamo_coffee.png", "subject")):
        graph.column()
        graph.reference(picture, task=task)
    graph.column()
    positive, negative = graph.prompt("a cat and a cup of coffee on a window sill, photo"), graph.empty_negative()
    graph.column()
    (latent,) = graph.add("EmptySD3LatentImage", width=768, height=768, batch_size=1)
    (black,) = graph.add("SolidMask", value=0.0, width=768, height=768)
    (half,) = graph.add("SolidMask", title="Half", value=1.0, width=384, height=768)
    (sky,) = graph.add("SolidMask", title="Upper quarter", value=1.0, width=768, height=192)
    graph.column()
    masks = [
        graph.add("MaskComposite", title=title, destination=black, source=part, x=x, y=0, operation="add")[0]
        for title, part, x in (("Left", half, 0), ("Right", half, 384), ("Top", sky, 0))
    ]
    graph.column()
    model, positive = graph.apply(positive)
    for reference, mask in ((1, masks[0]), (2, masks[1]), (0, masks[2])):
        title = f"Region of reference {reference}" if reference else "Background"
        (positive,) = graph.add(
            "DreamORegion", title=title, conditioning=positive, mask=mask, reference=reference, feather=32
        )
    graph.column()
    latent = graph.sample(model, positive, negative, latent)
    graph.column()
    return graph.finish(latent, "regions_by_hand")


def controlnet_and_upscale(info: dict[str, Any]) -> dict[str, Any]:
    graph = FluxGraph(
        info,
        "# Reference + ControlNet + second pass\nThe edges of one picture give the layout, the reference gives the "
        "subject; the latent is enlarged and sampled again with both.\n\n"
        "`models/controlnet/FLUX.1-dev-ControlNet-Union-Pro.safetensors`",
    )
    graph.column()
    graph.reference("dreamo_coffee.png", task="subject")
    graph.column()
    layout, *_ = graph.add("LoadImage", title="Layout", image="dreamo_rocket.png")
    (edges,) = graph.add("Canny", image=layout, low_threshold=0.3, high_threshold=0.7)
    (control_net,) = graph.add("ControlNetLoader", control_net_name="FLUX.1-dev-ControlNet-Union-Pro.safetensors")
    (control_net,) = graph.add(
        "SetUnionControlNetType", control_net=control_net, type="canny/lineart/anime_lineart/mlsd"
    )
    graph.column()
    positive, negative = graph.prompt("a cup of coffee on a launch pad, photo"), graph.empty_negative()
    (latent,) = graph.add("EmptySD3LatentImage", width=768, height=768, batch_size=1)
    graph.column()
    positive, negative = graph.add(
        "ControlNetApplyAdvanced", positive=positive, negative=negative, control_net=control_net, image=edges,
        vae=graph.vae, strength=0.6, start_percent=0.0, end_percent=0.6,
    )  # fmt: skip
    model, positive = graph.apply(positive)
    latent = graph.sample(model, positive, negative, latent)
    graph.column()
    (latent,) = graph.add("LatentUpscaleBy", samples=latent, upscale_method="bislerp", scale_by=1.5)
    latent = graph.sample(model, positive, negative, latent, denoise=0.5)
    graph.column()
    return graph.finish(latent, "controlnet_and_upscale")


# --- UNO and USO: the same nodes without a DreamO file ---

FLUX_NOTE = """## Models
- `models/diffusion_models/flux1-dev.safetensors`
- `models/text_encoders/clip_l.safetensors`, `t5xxl_fp16.safetensors`
- `models/vae/ae.safetensors`
"""

UNO_NOTE = FLUX_NOTE + "- `models/loras/dit_lora.safetensors` (bytedance-research/UNO)\n"

USO_STYLE_NOTE = """- `models/model_patches/uso-flux1-projector-v1.safetensors` (Comfy-Org/USO_1.0_Repackaged)
- `models/clip_vision/sigclip_vision_patch14_384.safetensors` (Comfy-Org/sigclip_vision_384)
"""

USO_LORA_NOTE = "- `models/loras/uso-flux1-dit-lora-v1.safetensors` (Comfy-Org/USO_1.0_Repackaged)\n"

UXO = "UNO, USO"
"""The profile of a reference that is for one of these two."""


def add_uso_style(graph: FluxGraph, picture: str) -> None:
    """One style picture on the model, through the host's own nodes."""
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
        "704.\n",
        UNO_NOTE,
        note_height=320,
        dreamo=False,
    )
    (graph.model,) = graph.add("DreamOLora", model=graph.model, lora_name="dit_lora.safetensors", strength=1.0)
    for picture in ("dreamo_cat.png", "dreamo_coffee.png"):
        graph.column()
        graph.reference(picture, task="subject", resolution=320, profile=UXO)
    graph.column()
    positive = graph.prompt("the cat looks into the cup of coffee", guidance=4.0)
    negative = graph.empty_negative()
    (latent,) = graph.add("EmptySD3LatentImage", width=512, height=512, batch_size=1)
    graph.column()
    model, positive = graph.apply(positive)
    latent = graph.sample(model, positive, negative, latent, steps=25)
    graph.column()
    return graph.finish(latent, "uno_subjects")


def uso_subject_style(info: dict[str, Any]) -> dict[str, Any]:
    graph = FluxGraph(
        info,
        "# USO: a subject in a style\nThe subject is a reference, the style goes through the host's "
        "*USOStyleReference*; a second one behind it adds a second style. "
        "An empty prompt keeps the subject's layout. Also for 1024 × 1024. "
        "One picture at a time: the host's style node does not take batches.\n",
        FLUX_NOTE + USO_LORA_NOTE + USO_STYLE_NOTE,
        note_height=360,
        dreamo=False,
    )
    lora = "uso-flux1-dit-lora-v1.safetensors"
    (graph.model,) = graph.add("DreamOLora", model=graph.model, lora_name=lora, strength=1.0)
    graph.column()
    add_uso_style(graph, "dreamo_rocket.png")
    graph.column()
    graph.reference("dreamo_cat.png", task="subject", resolution=512, profile=UXO)
    graph.column()
    positive, negative = graph.prompt("a cat on a stone wall at night", guidance=4.0), graph.empty_negative()
    (latent,) = graph.add("EmptySD3LatentImage", width=768, height=768, batch_size=1)
    graph.column()
    model, positive = graph.apply(positive)
    latent = graph.sample(model, positive, negative, latent, steps=20)
    graph.column()
    return graph.finish(latent, "uso_subject_style")


def dreamo_subject_uso_style(info: dict[str, Any]) -> dict[str, Any]:
    graph = FluxGraph(
        info,
        "# A DreamO subject in a USO style\nDreamO reads the reference, USO's projector gives the style. Defined and "
        "tested token by token, but the two were trained apart and **pictures of the released weights together have "
        "not been judged**. The strength of USO's LoRA (0.5) is a guess: more for the style, less for the subject. "
        "One picture at a time.\n",
        MODELS_NOTE + USO_LORA_NOTE + USO_STYLE_NOTE,
        note_height=460,
    )
    lora = "uso-flux1-dit-lora-v1.safetensors"
    (graph.model,) = graph.add("DreamOLora", model=graph.model, lora_name=lora, strength=0.5)
    graph.column()
    add_uso_style(graph, "dreamo_rocket.png")
    graph.column()
    graph.reference("dreamo_cat.png", task="subject")
    graph.column()
    positive, negative = graph.prompt("a cat on a stone wall at night"), graph.empty_negative()
    (latent,) = graph.add("EmptySD3LatentImage", width=768, height=768, batch_size=1)
    graph.column()
    model, positive = graph.apply(positive)
    latent = graph.sample(model, positive, negative, latent)
    graph.column()
    return graph.finish(latent, "dreamo_subject_uso_style")


UNO_AND_USO = {
    "uno_subjects": uno_subjects,
    "uso_subject_style": uso_subject_style,
    "dreamo_subject_uso_style": dreamo_subject_uso_style,
}


WORKFLOWS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "one_reference": one_reference,
    "three_references": three_references,
    "three_references_fast": three_references_fast,
    "two_subjects_placeholders": two_subjects_placeholders,
    "routed_references": routed_references,
    "regions_by_hand": regions_by_hand,
    "reference_controlnet_upscale": controlnet_and_upscale,
    **UNO_AND_USO,
}


def main() -> None:
    with tempfile.TemporaryDirectory() as base, Server(Path(base)) as server:
        info = server.object_info()
    for name, build in WORKFLOWS.items():
        save(build(info), FOLDER / f"{name}.json")
        print(FOLDER / f"{name}.json")


if __name__ == "__main__":
    main()

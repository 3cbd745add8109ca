"""What the shipped graphs have in common: FLUX.1-dev's loaders, a chain of references, a note that names the files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from graph import Graph, Slot, note_height

REPO = Path(__file__).resolve().parent.parent.parent
RELEASED = json.loads((REPO / "dreamo_core" / "checkpoint" / "manifest.json").read_text())["files"]

# Folder below `models`, repository on the Hugging Face Hub, and the file's name there.
MODELS = {
    "flux1-dev.safetensors": ("diffusion_models", "Comfy-Org/flux1-dev", "flux1-dev.safetensors"),
    "flux1-dev-fp8.safetensors": ("diffusion_models", "Kijai/flux-fp8", "flux1-dev-fp8.safetensors"),
    "clip_l.safetensors": ("text_encoders", "comfyanonymous/flux_text_encoders", "clip_l.safetensors"),
    "t5xxl_fp16.safetensors": ("text_encoders", "comfyanonymous/flux_text_encoders", "t5xxl_fp16.safetensors"),
    "t5xxl_fp8_e4m3fn.safetensors": (
        "text_encoders",
        "comfyanonymous/flux_text_encoders",
        "t5xxl_fp8_e4m3fn.safetensors",
    ),
    "ae.safetensors": ("vae", "Comfy-Org/Lumina_Image_2.0_Repackaged", "split_files/vae/ae.safetensors"),
    "FLUX.1-dev-ControlNet-Union-Pro.safetensors": (
        "controlnet",
        "Shakker-Labs/FLUX.1-dev-ControlNet-Union-Pro",
        "diffusion_pytorch_model.safetensors",
    ),
    "RealESRGAN_x4plus.safetensors": (
        "upscale_models",
        "Comfy-Org/Real-ESRGAN_repackaged",
        "RealESRGAN_x4plus.safetensors",
    ),
    "flux1-dev-kontext_fp8_scaled.safetensors": (
        "diffusion_models",
        "Comfy-Org/flux1-kontext-dev_ComfyUI",
        "split_files/diffusion_models/flux1-dev-kontext_fp8_scaled.safetensors",
    ),
    "flux-2-klein-4b-fp8.safetensors": (
        "diffusion_models",
        "black-forest-labs/FLUX.2-klein-4b-fp8",
        "flux-2-klein-4b-fp8.safetensors",
    ),
    "qwen_3_4b.safetensors": (
        "text_encoders",
        "Comfy-Org/flux2-klein",
        "split_files/text_encoders/qwen_3_4b.safetensors",
    ),
    "flux2-vae.safetensors": ("vae", "Comfy-Org/flux2-dev", "split_files/vae/flux2-vae.safetensors"),
    "dit_lora.safetensors": ("loras", "bytedance-research/UNO", "dit_lora.safetensors"),
    "UMO_UNO.safetensors": ("loras", "bytedance-research/UMO", "UMO_UNO.safetensors"),
    "uso-flux1-dit-lora-v1.safetensors": (
        "loras",
        "Comfy-Org/USO_1.0_Repackaged",
        "split_files/loras/uso-flux1-dit-lora-v1.safetensors",
    ),
    "uso-flux1-projector-v1.safetensors": (
        "model_patches",
        "Comfy-Org/USO_1.0_Repackaged",
        "split_files/model_patches/uso-flux1-projector-v1.safetensors",
    ),
    "sigclip_vision_patch14_384.safetensors": (
        "clip_vision",
        "Comfy-Org/sigclip_vision_384",
        "sigclip_vision_patch14_384.safetensors",
    ),
    **{file["name"]: ("dreamo", file["repo"], file["path"]) for file in RELEASED.values()},
}

DOWNLOADS = {
    name: {"name": name, "url": f"https://huggingface.co/{repository}/resolve/main/{path}", "directory": folder}
    for name, (folder, repository, path) in MODELS.items()
}
"""For the front end's Download buttons. None of these needs an account."""

# What a preset of DreamO Model Stack reads, in the manifest's names.
STACK_FILES = {"v1.1": ("dreamo", "cfg_distill", "sft", "dpo")}

PICTURES_NOTE = (
    "The pictures come with the pack. For your own, put *Load Image* in place of *DreamO Example Picture*: drop a file "
    "onto the page and connect the node that appears."
)


def models_note(names: list[str]) -> str:
    """Which file goes into which folder, and where it comes from.

    Raises:
        KeyError: a file that `MODELS` does not have.
    """
    lines, folders = ["## Models"], dict.fromkeys(MODELS[name][0] for name in names)
    for folder in folders:
        lines += ["", f"**models/{folder}**" + (" (or models/loras)" if folder == "dreamo" else ""), ""]
        for name in names:
            its_folder, repository, path = MODELS[name]
            if its_folder == folder:
                renamed = "" if Path(path).name == name else f" (there: {path})"
                lines.append(f"- {name} from [{repository}](https://huggingface.co/{repository}){renamed}")
    return "\n".join(lines)


class FluxGraph(Graph):
    """A graph that starts with a note and the FLUX.1-dev loaders, under their real file names."""

    def __init__(
        self,
        object_info: dict[str, Any],
        note: str,
        unet: str = "flux1-dev.safetensors",
        weight_dtype: str = "default",
        t5: str = "t5xxl_fp16.safetensors",
        turbo: bool = True,
        dreamo: bool = True,
    ):
        super().__init__(object_info, DOWNLOADS)
        self.note(note)
        self.group("Models")
        (self.model,) = self.add("UNETLoader", unet_name=unet, weight_dtype=weight_dtype)
        (self.clip,) = self.add("DualCLIPLoader", clip_name1="clip_l.safetensors", clip_name2=t5, type="flux")
        # DreamO, UNO and USO were all released with T5 padded to 512 tokens; the host pads to 256.
        (self.clip,) = self.add(
            "T5TokenizerOptions", title="T5 at 512 tokens, as released", clip=self.clip, min_padding=0, min_length=512
        )
        (self.vae,) = self.add("VAELoader", vae_name="ae.safetensors")
        self.dreamo: Slot | None = None
        if dreamo:
            self.dreamo, self.model = self.add("DreamOModelStack", model=self.model, preset="v1.1", use_turbo=turbo)
        self.chain: Slot | None = None

    def references(self, *pictures: tuple[str, str]) -> None:
        """Pictures and their tasks, as references in a box of their own."""
        self.group("References")
        for picture, task in pictures:
            self.column()
            self.reference(picture, task=task)

    def reference(self, picture: str, **widgets: Any) -> None:
        """A picture and its reference, appended to the chain."""
        image, *_ = self.add("DreamOExamplePicture", picture=picture)
        chained = {"references": self.chain} if self.chain else {}
        self.chain, _ = self.add("DreamOReference", image=image, vae=self.vae, **chained, **widgets)

    def prompt(self, text: str | Slot, guidance: float = 4.5) -> Slot:
        (positive,) = self.add("CLIPTextEncode", title="Prompt", clip=self.clip, text=text)
        (positive,) = self.add("FluxGuidance", conditioning=positive, guidance=guidance)
        return positive

    def prompt_with_placeholders(self, text: str, title: str = "Prompt", guidance: float = 4.5) -> Slot:
        (positive,) = self.add(
            "DreamOTextEncode", title=title, clip=self.clip, dreamo_model=self.dreamo, references=self.chain,
            prompt=text, guidance=guidance,
        )  # fmt: skip
        return positive

    def empty_negative(self) -> Slot:
        (negative,) = self.add("CLIPTextEncode", title="Negative (unused at cfg 1)", clip=self.clip, text="")
        return negative

    def empty_latent(self, width: int, height: int) -> Slot:
        (latent,) = self.add("EmptySD3LatentImage", width=width, height=height, batch_size=1)
        return latent

    def apply(self, positive: Slot, latent: Slot) -> tuple[Slot, Slot]:
        """References onto the prompt, and the released schedule for the size of this latent."""
        dreamo = {"dreamo_model": self.dreamo} if self.dreamo else {}
        model, positive = self.add(
            "DreamOApply", model=self.model, positive=positive, references=self.chain, latent=latent, **dreamo
        )
        return model, positive

    def sample(self, model: Slot, positive: Slot, negative: Slot, latent: Slot, **widgets: Any) -> Slot:
        settings = {"seed": 42, "steps": 12, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", **widgets}
        (latent,) = self.add(
            "KSampler", model=model, positive=positive, negative=negative, latent_image=latent, **settings
        )
        return latent

    def decode(self, latent: Slot) -> Slot:
        (image,) = self.add("VAEDecode", samples=latent, vae=self.vae)
        return image

    def save(self, image: Slot, name: str) -> None:
        self.add("SaveImage", images=image, filename_prefix=f"DreamO/{name}")

    def files_of(self, node: dict[str, Any]) -> list[str]:
        if node["type"] != "DreamOModelStack":
            return super().files_of(node)
        # It names all released files, and reads those of its preset.
        preset, turbo = node["widgets_values"][:2]
        return [RELEASED[id_]["name"] for id_ in (*STACK_FILES[preset], *(("turbo",) if turbo else ()))]

    def _used(self) -> list[str]:
        """Names of the model files that the graph asks for, in its order."""
        return list(dict.fromkeys(name for node in self.nodes[1:] for name in self.files_of(node)))

    def to_json(self) -> dict[str, Any]:
        note = self.nodes[0]
        (text,) = note["widgets_values"]
        text = "\n\n".join([text, PICTURES_NOTE, models_note(self._used())])
        filled = {**note, "widgets_values": [text], "size": [note["size"][0], note_height(text)]}
        workflow = super().to_json()
        return {**workflow, "nodes": [filled, *workflow["nodes"][1:]]}


def picture_of(
    graph: FluxGraph, name: str, positive: Slot, negative: Slot, latent: Slot, **widgets: Any
) -> dict[str, Any]:
    """The end of a plain graph: references onto the prompt, sampling, the picture."""
    graph.group("Picture")
    model, positive = graph.apply(positive, latent)
    latent = graph.sample(model, positive, negative, latent, **widgets)
    graph.column()
    graph.save(graph.decode(latent), name)
    return graph.to_json()

"""Graphs of RealCustom++ on SDXL."""

from __future__ import annotations

from typing import Any

from graph import Graph, Slot, note_height

from .base import MODELS, PICTURES_NOTE, models_note

FILES = {
    "sd_xl_base_1.0.safetensors": (
        "checkpoints",
        "stabilityai/stable-diffusion-xl-base-1.0",
        "sd_xl_base_1.0.safetensors",
    ),
    "RealCustom_highres.pth": ("realcustom", "bytedance-research/RealCustom", "RealCustom_highres.pth"),
    "siglip_so400m_patch14_384.safetensors": (
        "clip_vision",
        "timm/ViT-SO400M-14-SigLIP-384",
        "open_clip_model.safetensors",
    ),
    "dinov2_vitl14_reg4.safetensors": (
        "clip_vision",
        "timm/vit_large_patch14_reg4_dinov2.lvd142m",
        "model.safetensors",
    ),
}
MODELS.update(FILES)
CHECKPOINT, REALCUSTOM, SIGLIP, DINO = FILES
NEGATIVE = "deformed, disfigured, mutated, extra limb, ugly, blurry, watermark, oversaturated"


def download(name: str) -> dict[str, str]:
    """A file as the front end's Download button wants it."""
    directory, repository, path = FILES[name]
    return {"name": name, "url": f"https://huggingface.co/{repository}/resolve/main/{path}", "directory": directory}


class RealCustomGraph(Graph):
    """A graph that starts with a note, an SDXL checkpoint and RealCustom's files, under their real names."""

    def __init__(self, object_info: dict[str, Any], note: str):
        super().__init__(object_info)
        self.note("\n\n".join([note, PICTURES_NOTE, models_note(list(FILES))]))
        self.nodes[0]["size"][1] = note_height(self.nodes[0]["widgets_values"][0])
        self.group("Models")
        self.model, self.clip, self.vae = self.add("CheckpointLoaderSimple", ckpt_name=CHECKPOINT)
        self.nodes[-1]["properties"]["models"] = [download(CHECKPOINT)]
        (self.realcustom,) = self.add(
            "RealCustomLoader", realcustom_name=REALCUSTOM, siglip_name=SIGLIP, dino_name=DINO
        )
        self.nodes[-1]["properties"]["models"] = [download(name) for name in (REALCUSTOM, SIGLIP, DINO)]
        self.subjects: Slot | None = None

    def subject(self, picture: str, words: str, mask: Slot | None = None, gamma: float = 0.25) -> None:
        """A picture and its words, appended to the chain."""
        self.column()
        image, *_ = self.add("LoadImage", image=picture)
        chained = {"subjects": self.subjects} if self.subjects else {}
        painted = {"mask": mask} if mask else {}
        (self.subjects,) = self.add("RealCustomSubject", image=image, words=words, gamma=gamma, **chained, **painted)

    def picture(self, prompt: str, name: str, preview: bool = False) -> dict[str, Any]:
        """The end of a graph: both prompts, subjects onto them, sampling, the picture, and where subjects acted."""
        self.group("Prompt")
        (positive,) = self.add("CLIPTextEncode", title="Prompt", clip=self.clip, text=prompt)
        (negative,) = self.add("CLIPTextEncode", title="Negative", clip=self.clip, text=NEGATIVE)
        (latent,) = self.add("EmptyLatentImage", width=1024, height=1024, batch_size=1)
        self.group("Picture")
        model, positive, negative = self.add(
            "RealCustomApply", model=self.model, positive=positive, negative=negative, realcustom=self.realcustom,
            subjects=self.subjects, clip=self.clip, text=prompt,
        )  # fmt: skip
        self.column()
        latent, *_, maps = self.add(
            "DreamORoutedSampler", model=model, positive=positive, negative=negative, latent_image=latent, seed=42,
            steps=25, cfg=3.5, sampler_name="dpmpp_2m", scheduler="sgm_uniform",
        )  # fmt: skip
        self.column()
        (image,) = self.add("VAEDecode", samples=latent, vae=self.vae)
        self.add("SaveImage", images=image, filename_prefix=f"DreamO/{name}")
        if preview:
            self.column()
            self.add("DreamORoutingPreview", maps=maps, image=image)
        return self.to_json()


def realcustom_subject(info: dict[str, Any]) -> dict[str, Any]:
    graph = RealCustomGraph(
        info,
        "# RealCustom++: one subject on SDXL\nThe picture acts where its word (*cat*) is drawn and nowhere else. The "
        "text of *RealCustom Apply* is the prompt once more.",
    )
    graph.group("Subject")
    graph.subject("dreamo_cat.png", "cat")
    return graph.picture("a cat on a skateboard in a city street", "realcustom_subject")


def realcustom_two_words(info: dict[str, Any]) -> dict[str, Any]:
    graph = RealCustomGraph(
        info,
        "# RealCustom++: one picture, two words\nTwo things of one picture: each word has its own mask, and the "
        "picture acts in both. One line of *words* for each.",
    )
    graph.group("Subject")
    graph.subject("dreamo_coffee.png", "cup\nspoon", gamma=0.15)
    return graph.picture("a cup and a silver spoon on a marble table", "realcustom_two_words", preview=True)


def realcustom_two_subjects(info: dict[str, Any]) -> dict[str, Any]:
    graph = RealCustomGraph(
        info,
        "# RealCustom++: two pictures, two words\nEach picture acts where its own word is drawn; the two share the "
        "image without overlap (the paper's Algorithm 1). *DreamO Routing Preview* shows both masks.",
    )
    graph.group("Subjects")
    graph.subject("dreamo_cat.png", "cat", gamma=0.2)
    graph.subject("dreamo_coffee.png", "cup of coffee", gamma=0.15)
    return graph.picture("a cat beside a cup of coffee, morning light", "realcustom_two_subjects", preview=True)


def realcustom_painted_mask(info: dict[str, Any]) -> dict[str, Any]:
    graph = RealCustomGraph(
        info,
        "# RealCustom++: a painted mask\nThe subject acts in the mask and its place is not searched, so there is no "
        "extra pass and a step costs little more than a plain one. Here the right half; paint your own.",
    )
    graph.group("Mask")
    (left,) = graph.add("SolidMask", value=0.0, width=1024, height=1024)
    (right,) = graph.add("SolidMask", value=1.0, width=512, height=1024)
    (mask,) = graph.add("MaskComposite", destination=left, source=right, x=512, y=0, operation="add")
    graph.group("Subject")
    graph.subject("dreamo_cat.png", "cat", mask=mask)
    return graph.picture("a cat on the right of an old stone wall", "realcustom_painted_mask")

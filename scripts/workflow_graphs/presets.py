"""The two ends of the scale: as little memory as possible, and the best picture."""

from __future__ import annotations

from typing import Any

from .base import FluxGraph


def low_vram(info: dict[str, Any]) -> dict[str, Any]:
    graph = FluxGraph(
        info,
        "# Low VRAM\n12 GB for FLUX.1 in fp8 in place of 24, 5 for T5 in place of 10; ComfyUI keeps in the computer's "
        "memory what does not fit. *DreamO Speed* runs the references once and keeps what it needs of them outside "
        "the GPU (*low_memory*). The tiled decoder needs little at the end.\n\nflux1-dev.safetensors works as well: "
        "*weight_dtype* makes it fp8 while loading.\n\nStill too large? GGUF files, with the nodes of [ComfyUI-GGUF](https://github.com/city96/ComfyUI-GGUF):\n\n"
        "- *Unet Loader (GGUF)* in place of *Load Diffusion Model*: flux1-dev-Q4_K_S.gguf from "
        "[city96/FLUX.1-dev-gguf](https://huggingface.co/city96/FLUX.1-dev-gguf) in models/diffusion_models\n"
        "- *DualCLIPLoader (GGUF)* in place of *DualCLIPLoader*: t5-v1_1-xxl-encoder-Q4_K_M.gguf from "
        "[city96/t5-v1_1-xxl-encoder-gguf](https://huggingface.co/city96/t5-v1_1-xxl-encoder-gguf) in "
        "models/text_encoders",
        unet="flux1-dev-fp8.safetensors",
        weight_dtype="fp8_e4m3fn",
        t5="t5xxl_fp8_e4m3fn.safetensors",
    )
    graph.references(("astronaut", "identity"), ("cat", "subject"))
    graph.group("Prompt")
    positive, negative = graph.prompt("a woman with a cat on a bench in the park, photo"), graph.empty_negative()
    latent = graph.empty_latent(768, 768)
    graph.group("Picture")
    model, positive = graph.apply(positive, latent)
    model, report = graph.add(
        "DreamOSpeed", model=model, references=graph.chain, preset="fast", low_memory=True, width=768, height=768
    )
    graph.add("PreviewAny", title="Expected cost", source=report)
    graph.column()
    latent = graph.sample(model, positive, negative, latent)
    (image,) = graph.add("VAEDecodeTiled", samples=latent, vae=graph.vae, tile_size=512)
    graph.save(image, "low_vram")
    return graph.to_json()


def quality_v1_1(info: dict[str, Any]) -> dict[str, Any]:
    graph = FluxGraph(
        info,
        "# DreamO v1.1 without turbo\nThe preset *v1.1* puts DreamO and three companions on the model: "
        "*cfg_distill* (one pass a step in place of two), *sft* and *dpo* (v1.1's quality tuning). Here turbo is off "
        "and sampling takes 25 steps, as released without it, in about twice the time. The authors "
        "found the difference mixed; if a wave pattern shows on faces, turn turbo on and take 12 steps.\n\nGuidance "
        "4.5 is what v1.1 was tuned for. Where skin looks like plastic or colours are too strong, lower it.",
        turbo=False,
    )
    graph.references(("astronaut", "identity"))
    graph.group("Prompt")
    positive = graph.prompt("portrait of a woman in a red coat in a snowy forest, soft light, photo")
    negative, latent = graph.empty_negative(), graph.empty_latent(1024, 1024)
    graph.group("Picture")
    latent = graph.sample(*graph.apply(positive, latent), negative, latent, steps=25)
    graph.column()
    graph.save(graph.decode(latent), "quality_v1_1")
    return graph.to_json()

"""References together with other things people do: ControlNet, inpainting, upscaling."""

from __future__ import annotations

from typing import Any

from .base import FluxGraph


def reference_controlnet_upscale(info: dict[str, Any]) -> dict[str, Any]:
    graph = FluxGraph(
        info,
        "# Reference + ControlNet + second pass\nThe edges of one picture give the layout, the reference gives the "
        "subject; the latent is enlarged and sampled again with both.\n\nFor depth instead of edges: a depth map in "
        "place of *Canny*, and *depth* as the type.",
    )
    graph.references(("coffee", "subject"))
    graph.group("Layout")
    layout, *_ = graph.add("DreamOExamplePicture", title="Layout", picture="rocket")
    (edges,) = graph.add("Canny", image=layout, low_threshold=0.3, high_threshold=0.7)
    (control_net,) = graph.add("ControlNetLoader", control_net_name="FLUX.1-dev-ControlNet-Union-Pro.safetensors")
    (control_net,) = graph.add(
        "SetUnionControlNetType", control_net=control_net, type="canny/lineart/anime_lineart/mlsd"
    )
    graph.group("Prompt")
    positive, negative = graph.prompt("a cup of coffee on a launch pad, photo"), graph.empty_negative()
    latent = graph.empty_latent(768, 768)
    graph.group("Picture")
    positive, negative = graph.add(
        "ControlNetApplyAdvanced", positive=positive, negative=negative, control_net=control_net, image=edges,
        vae=graph.vae, strength=0.6, start_percent=0.0, end_percent=0.6,
    )  # fmt: skip
    model, positive = graph.apply(positive, latent)
    latent = graph.sample(model, positive, negative, latent)
    graph.group("Second pass")
    (latent,) = graph.add("LatentUpscaleBy", samples=latent, upscale_method="bislerp", scale_by=1.5)
    latent = graph.sample(model, positive, negative, latent, denoise=0.5)
    graph.column()
    graph.save(graph.decode(latent), "reference_controlnet_upscale")
    return graph.to_json()


def inpaint_subject(info: dict[str, Any]) -> dict[str, Any]:
    graph = FluxGraph(
        info,
        "# Inpaint: put my subject here\nPut *Load Image* with your picture in place of *Place*, right click on it, "
        "*Open in MaskEditor*, and paint where the subject shall be. Only that part is drawn "
        "anew; everything else keeps its pixels.\n\nBase model: FLUX.1-dev, on "
        "which DreamO was trained. *FLUX.1-Fill* has other inputs and DreamO Apply refuses it. So masking is done in "
        "the latent (*Set Latent Noise Mask*), with soft edges (*Differential Diffusion*). *InpaintModelConditioning* "
        "adds nothing here: the picture it hands over is for Fill alone.\n\nDescribe the whole picture in the "
        "prompt, not the new part alone: that is all the base model knows about the place. Below 1, *denoise* keeps "
        "something of what was there.",
    )
    graph.references(("cat", "subject"))
    graph.group("Place")
    place, mask = graph.add("DreamOExamplePicture", title="Place, with a painted mask", picture="table")
    (place,) = graph.add("FluxKontextImageScale", title="To a size that FLUX.1 likes", image=place)
    (mask,) = graph.add("MaskToImage", mask=mask)
    (mask,) = graph.add("FluxKontextImageScale", title="The same for the mask", image=mask)
    (mask,) = graph.add("ImageBlur", title="Soft edge", image=mask, blur_radius=15, sigma=6.0)
    (mask,) = graph.add("ImageToMask", image=mask, channel="red")
    graph.column()
    (latent,) = graph.add("VAEEncode", pixels=place, vae=graph.vae)
    (latent,) = graph.add("SetLatentNoiseMask", samples=latent, mask=mask)
    (graph.model,) = graph.add("DifferentialDiffusion", model=graph.model, strength=1.0)
    graph.group("Prompt")
    positive = graph.prompt("a cat beside a red cup of coffee on a wooden table, photo")
    negative = graph.empty_negative()
    graph.group("Picture")
    model, positive = graph.apply(positive, latent)
    latent = graph.sample(model, positive, negative, latent)
    graph.column()
    (image,) = graph.add(
        "ImageCompositeMasked", title="Everything else from the original", destination=place,
        source=graph.decode(latent), mask=mask, x=0, y=0, resize_source=False,
    )  # fmt: skip
    graph.save(image, "inpaint_subject")
    return graph.to_json()


def upscale_with_references(info: dict[str, Any]) -> dict[str, Any]:
    graph = FluxGraph(
        info,
        "# Upscale with references\nA model enlarges the picture, which is then brought to one and a half times its "
        "first size, and a second pass at low denoise draws the details with the references in view: the face stays "
        "that face.\n\n*denoise* 0.2 to 0.4: more draws more anew. The tiled decoder saves memory at this "
        "size. Any upscale model fits.",
    )
    graph.references(("astronaut", "identity"))
    graph.group("Prompt")
    positive = graph.prompt("portrait of a woman in a red coat in a snowy forest, soft light, photo")
    negative, latent = graph.empty_negative(), graph.empty_latent(768, 768)
    graph.group("First pass")
    model, positive = graph.apply(positive, latent)
    image = graph.decode(graph.sample(model, positive, negative, latent))
    graph.group("Upscale")
    (upscaler,) = graph.add("UpscaleModelLoader", model_name="RealESRGAN_x4plus.safetensors")
    (image,) = graph.add("ImageUpscaleWithModel", upscale_model=upscaler, image=image)
    (image,) = graph.add(
        "ImageScale", title="Size of the result", image=image, upscale_method="area", width=1152, height=1152,
        crop="center",
    )  # fmt: skip
    (latent,) = graph.add("VAEEncode", pixels=image, vae=graph.vae)
    graph.group("Second pass")
    latent = graph.sample(model, positive, negative, latent, steps=6, denoise=0.3)
    (image,) = graph.add("VAEDecodeTiled", samples=latent, vae=graph.vae, tile_size=1024)
    graph.save(image, "upscale_with_references")
    return graph.to_json()

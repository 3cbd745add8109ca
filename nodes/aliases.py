"""Other names under which the front end's search finds a node: what users of other packs would type."""

import dataclasses

from comfy_api.latest import io

ALIASES = {
    "DreamOLoader": "dreamo loader, load ipadapter, ip-adapter loader, load pulid, load redux",
    "DreamOModelStack": "dreamo loader, dreamo v1.1, ipadapter unified loader, lora stack, turbo lora, distilled lora",
    "DreamOLora": "load lora, lora loader, xlabs lora, diffusers lora, kohya lora, peft adapter",
    "DreamOReference": (
        "ipadapter, ip-adapter, reference image, image prompt, face id, faceid, instantid, pulid, reactor, face swap, "
        "consistent character, subject, product, virtual try-on, garment, style transfer, style reference, redux, uno"
    ),
    "DreamOReferences": "ipadapter, reference images, multiple references, multi reference, image prompt, redux, uno",
    "DreamOReferenceBatch": "ipadapter batch, reference images, reference folder, load images from folder",
    "DreamOLoadPicture": "load image, load photo, exif orientation, transparent png, open picture",
    "DreamOStylePrompt": "style transfer, style reference, ipadapter style, redux, trigger word",
    "DreamOApply": (
        "apply dreamo, apply ipadapter, ipadapter apply, ipadapter advanced, apply pulid, apply instantid, "
        "apply style model, reference conditioning"
    ),
    "DreamOReferenceControl": (
        "reference latent strength, kontext strength, flux 2 reference strength, klein, image weight, reference weight"
    ),
    "DreamOSpeed": "speed up, faster references, kv cache, token pruning, teacache, low vram",
    "DreamOTrueCFGRange": "cfg range, cfg schedule, dynamic cfg, skip cfg, negative prompt",
    "DreamORouting": (
        "regional prompt, attention couple, attention mask, identity bleeding, separate subjects, multiple characters"
    ),
    "DreamORegion": "regional prompt, regional ipadapter, attention mask, reference mask, area",
    "DreamORoutingWords": "regional prompt, word attention, token attention",
    "DreamORoutedSampler": "ksampler, regional sampler, attention map, heat map, reference masks",
    "DreamORoutingPreview": "attention map, heat map, show regions, visualize attention",
    "DreamOPlaceholders": "ref#1, placeholder token, reference token, trigger word, patch clip",
    "DreamOTextEncode": "clip text encode, flux text encode, prompt, ref#1, placeholder token, reference token",
    "DreamOUSOStyle": "uso style reference, style transfer, siglip style, redux",
    "DreamOOfficialProcessor": "dreamoprocessorloader, dreamo processor loader, official dreamo",
    "DreamOOfficialReference": "dreamorefencode, dreamo ref image encode, official dreamo",
    "DreamOOfficialApply": "applydreamo, apply dreamo, official dreamo",
    "RealCustomLoader": "realcustom++, load ipadapter, ip-adapter loader, sdxl reference, load clip vision",
    "RealCustomSubject": (
        "realcustom++, ipadapter, ip-adapter, reference image, image prompt, subject, sdxl reference, "
        "consistent character, attention mask"
    ),
    "RealCustomApply": (
        "realcustom++, apply ipadapter, ipadapter advanced, apply instantid, sdxl subject, multiple subjects, "
        "regional ipadapter, attention mask"
    ),
    "RealCustomDemoModels": "test sdxl, random weights, try without download",
    "DreamODemoModels": "test models, random weights, mini world, try without download",
    "DreamOExamplePicture": "example image, sample image, load image, try without download",
    "DreamODemoUSO": "test uso, random weights, try without download",
    "DreamODemoControlNet": "test controlnet, random weights, try without download",
}


def search_aliases(node_id: str) -> dict[str, list[str]]:
    """Keyword arguments for a node's `io.Schema`; none on a host whose schemas have no aliases yet."""
    known = {field.name for field in dataclasses.fields(io.Schema)}
    return {"search_aliases": ALIASES[node_id].split(", ")} if "search_aliases" in known else {}

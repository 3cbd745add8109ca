"""The official pack's three example graphs, drawn afresh from their lists of nodes, links and widget values.

Source: ToTheBeginning/ComfyUI-DreamO, workflows/dreamo_comfyui.json (one reference, v1, saved before there was a
resolution), dreamo_comfyui_2cond.json (two) and dreamo_comfyui_v1.1.json. Positions are ours.
"""

V1_LORAS = (
    ("flux-turbo.safetensors", 1.0), ("dreamo_comfyui.safetensors", 1.0),
    ("dreamo_cfg_distill_comfyui.safetensors", 1.0), ("dreamo_quality_lora_pos_comfyui.safetensors", 0.15),
    ("dreamo_quality_lora_neg_comfyui.safetensors", -0.8),
)  # fmt: skip
V1_1_LORAS = (*V1_LORAS[:3], ("dreamo_sft_lora.safetensors", 1.0), ("dreamo_dpo_lora.safetensors", 1.2))


class Drawing:
    """A graph in the front end's format 0.4 under construction."""

    def __init__(self):
        self.nodes, self.links = [], []

    def add(self, type_, outputs, widgets=(), **inputs):
        """A node; an input is (type, source), where a source is (node id, output) or None."""
        id_, slots = len(self.nodes) + 1, []
        for place, (name, (kind, source)) in enumerate(inputs.items()):
            link = None
            if source is not None:
                link = len(self.links) + 1
                self.links.append([link, *source, id_, place, kind])
                self.nodes[source[0] - 1]["outputs"][source[1]]["links"].append(link)
            slots.append({"name": name, "type": kind, "link": link})
        self.nodes.append({
            "id": id_, "type": type_, "pos": [330 * (id_ % 6), 400 * (id_ // 6)], "size": [300, 200], "flags": {},
            "order": id_, "mode": 0, "inputs": slots,
            "outputs": [{"name": kind, "type": kind, "links": []} for kind in outputs],
            "properties": {"Node name for S&R": type_}, "widgets_values": list(widgets),
        })  # fmt: skip
        return id_

    def to_json(self):
        return {
            "last_node_id": len(self.nodes), "last_link_id": len(self.links), "nodes": self.nodes, "links": self.links,
            "groups": [], "config": {}, "extra": {}, "version": 0.4,
        }  # fmt: skip


def draw(loras, pictures, prompt, guidance, reference_widgets):
    d = Drawing()
    model = d.add("UNETLoader", ["MODEL"], ["flux1-dev-fp8.safetensors", "fp8_e4m3fn"])
    for name, strength in loras:
        model = d.add("LoraLoaderModelOnly", ["MODEL"], [name, strength], model=("MODEL", (model, 0)))
    clip = d.add("DualCLIPLoader", ["CLIP"], ["t5xxl_fp8_e4m3fn.safetensors", "clip_l.safetensors", "flux", "default"])
    vae = d.add("VAELoader", ["VAE"], ["ae.safetensors"])
    processor = d.add("DreamOProcessorLoader", ["DREAMO_PROCESSOR"])
    references = []
    for picture in pictures:
        image = d.add("LoadImage", ["IMAGE", "MASK"], [picture, "image"])
        encoded = d.add(
            "DreamORefEncode", ["LATENT", "IMAGE"], reference_widgets, pixels=("IMAGE", (image, 0)),
            vae=("VAE", (vae, 0)), dreamo_processor=("DREAMO_PROCESSOR", (processor, 0)),
        )  # fmt: skip
        d.add("PreviewImage", [], images=("IMAGE", (encoded, 1)))
        references.append((encoded, 0))
    slots = {f"ref{n}": ("LATENT", source) for n, source in enumerate([*references, None, None, None][:3], 1)}
    applied = d.add("ApplyDreamO", ["MODEL"], model=("MODEL", (model, 0)), **slots)
    positive = d.add("CLIPTextEncode", ["CONDITIONING"], [prompt], clip=("CLIP", (clip, 0)))
    positive = d.add("FluxGuidance", ["CONDITIONING"], [guidance], conditioning=("CONDITIONING", (positive, 0)))
    negative = d.add("CLIPTextEncode", ["CONDITIONING"], [""], clip=("CLIP", (clip, 0)))
    latent = d.add("EmptySD3LatentImage", ["LATENT"], [1024, 1024, 1])
    sampled = d.add(
        "KSampler", ["LATENT"], [40, "fixed", 12, 1, "euler", "simple", 1], model=("MODEL", (applied, 0)),
        positive=("CONDITIONING", (positive, 0)), negative=("CONDITIONING", (negative, 0)),
        latent_image=("LATENT", (latent, 0)),
    )  # fmt: skip
    image = d.add("VAEDecode", ["IMAGE"], samples=("LATENT", (sampled, 0)), vae=("VAE", (vae, 0)))
    d.add("SaveImage", [], ["ComfyUI"], images=("IMAGE", (image, 0)))
    return d.to_json()


OFFICIAL = {
    "dreamo_comfyui": draw(V1_LORAS, ["sigir_person.png"], "a man playing guitar in the street", 3.5, ["ip"]),
    "dreamo_comfyui_2cond": draw(
        V1_LORAS, ["man1.png", "hinton.jpeg"], "two men walking in the street", 3.5, ["ip"]
    ),
    "dreamo_comfyui_v1.1": draw(
        V1_1_LORAS, ["sigir_person.png"], 'a person holding a paper saying "DreamO v1.1", on the mountain', 4.5,
        [512, "ip"],
    ),
}  # fmt: skip

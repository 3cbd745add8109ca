from comfy_api.latest import io

from ..dreamo_core.checkpoint.describe import unused_message
from ..dreamo_core.checkpoint.read import fingerprint
from ..dreamo_core.host import folders
from ..dreamo_core.host.messages import report
from ..dreamo_core.host.realcustom import load_realcustom
from .aliases import search_aliases
from .checks import checked
from .types import RealCustomModelType


class RealCustomLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        vision = folders.vision_files()
        return io.Schema(
            node_id="RealCustomLoader",
            display_name="RealCustom Loader",
            **search_aliases("RealCustomLoader"),
            category="DreamO/realcustom",
            description=(
                "Loads RealCustom++ for SDXL: its file from models/realcustom, and the two encoders that see the "
                "pictures from models/clip_vision."
            ),
            inputs=[
                io.Combo.Input(
                    "realcustom_name",
                    options=folders.realcustom_files(),
                    tooltip="The released RealCustom_highres.pth or its shallow variant, or the same as a safetensors "
                    "file. A .pth is read as weights alone, no code in it runs.",
                ),
                io.Combo.Input(
                    "siglip_name",
                    options=vision,
                    tooltip="SigLIP so400m/14 at 384 pixels, with timm's, Hugging Face's or open_clip's keys.",
                ),
                io.Combo.Input(
                    "dino_name",
                    options=vision,
                    tooltip="DINOv2 ViT-L/14 with registers, with timm's or Hugging Face's keys.",
                ),
            ],
            outputs=[RealCustomModelType.Output("realcustom", tooltip="Goes to RealCustom Apply.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @checked
    def execute(cls, realcustom_name, siglip_name, dino_name) -> io.NodeOutput:
        model, unused = load_realcustom(
            folders.realcustom_path(realcustom_name), folders.vision_path(siglip_name), folders.vision_path(dino_name)
        )
        variant = "shallow" if model.file.shallow else "high-resolution"
        text = f"{realcustom_name}: {variant} variant, {len(model.file.vision)} cross-attentions"
        # Norms, poolers and text towers of the encoders are of no use here; only the RealCustom file's are a problem.
        report(text, cls.hidden, unused_message(model.file.name, unused.get(model.file.name, ())))
        return io.NodeOutput(model)

    @classmethod
    def fingerprint_inputs(cls, realcustom_name, siglip_name, dino_name):
        paths = (
            folders.realcustom_path(realcustom_name), folders.vision_path(siglip_name), folders.vision_path(dino_name),
        )  # fmt: skip
        return [fingerprint(path) for path in paths]

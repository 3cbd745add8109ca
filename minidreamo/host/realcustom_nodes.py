from comfy_api.latest import io

from ...nodes.aliases import search_aliases
from ...nodes.checks import checked
from ...nodes.types import RealCustomModelType
from . import small_sdxl
from .nodes import SEED


class RealCustomDemoModels(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="RealCustomDemoModels",
            display_name="RealCustom Demo Models (random weights)",
            **search_aliases("RealCustomDemoModels"),
            category="DreamO/demo",
            description=(
                "Small stand-ins for SDXL, its text encoders, its VAE and RealCustom with both encoders: every graph "
                "runs in seconds without a download, and every picture is noise."
            ),
            inputs=[SEED],
            outputs=[
                io.Model.Output("model"),
                io.Clip.Output("clip"),
                io.Vae.Output("vae"),
                RealCustomModelType.Output("realcustom"),
            ],
        )

    @classmethod
    @checked
    def execute(cls, seed) -> io.NodeOutput:
        model = small_sdxl.small_sdxl(seed)
        return io.NodeOutput(
            model,
            small_sdxl.small_sdxl_clip(seed),
            small_sdxl.small_sdxl_vae(seed),
            small_sdxl.small_realcustom(model, seed=seed),
        )

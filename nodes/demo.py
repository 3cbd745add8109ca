from comfy_api.latest import io

from ..dreamo_core.host import small_models


class DreamODemoModels(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DreamODemoModels",
            display_name="DreamO Demo Models (random weights)",
            category="DreamO/demo",
            description=(
                "Small stand-ins for FLUX.1, its text encoders and its VAE, made on the spot with random weights: "
                "every graph runs in seconds without a download, and every picture is noise."
            ),
            inputs=[io.Int.Input("seed", default=0, min=0, max=2**32 - 1, tooltip="Seed of the weights.")],
            outputs=[io.Model.Output("model"), io.Clip.Output("clip"), io.Vae.Output("vae")],
        )

    @classmethod
    def execute(cls, seed) -> io.NodeOutput:
        return io.NodeOutput(
            small_models.small_flux(seed), small_models.small_text_encoders(seed), small_models.small_vae(seed)
        )

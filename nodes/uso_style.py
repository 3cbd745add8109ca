from comfy_api.latest import io

from ..dreamo_core.host.flux import check_flux
from ..dreamo_core.host.uso_style import with_uso_style
from .aliases import search_aliases
from .checks import checked


class DreamOUSOStyle(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DreamOUSOStyle",
            display_name="DreamO USO Style",
            **search_aliases("DreamOUSOStyle"),
            category="DreamO",
            description=(
                "USO's style picture on the model, for any batch size; the host's USOStyleReference takes a batch of "
                "one only. A second one behind it adds a second style."
            ),
            inputs=[
                io.Model.Input("model", tooltip="FLUX.1 with USO's LoRA."),
                io.Custom("MODEL_PATCH").Input("model_patch", tooltip="uso-flux1-projector-v1 with ModelPatchLoader."),
                io.ClipVisionOutput.Input(
                    "clip_vision_output",
                    tooltip=(
                        "From CLIP Vision Encode with sigclip_vision_patch14_384 and crop none: USO saw its style "
                        "pictures squashed. One picture, or one for each sample of the batch."
                    ),
                ),
            ],
            outputs=[io.Model.Output("model_out", display_name="model")],
        )

    @classmethod
    @checked
    def execute(cls, model, model_patch, clip_vision_output) -> io.NodeOutput:
        check_flux(model)
        return io.NodeOutput(with_uso_style(model, model_patch, clip_vision_output))

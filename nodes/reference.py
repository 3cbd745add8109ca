from comfy_api.latest import io, ui

from ..dreamo_core.host.vae import encode_reference
from ..dreamo_core.references import TASKS, Reference, extend, prepare_picture
from ..dreamo_core.schedule import check_range
from .types import DreamOReferencesType


class DreamOReference(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DreamOReference",
            display_name="DreamO Reference",
            category="DreamO",
            description=(
                "Prepares one reference picture as DreamO was trained to see it and adds it to a chain. "
                "The first in the chain is reference 1, up to 9."
            ),
            inputs=[
                io.Image.Input("image", tooltip="One picture. An alpha channel is used as the mask if none is given."),
                io.Vae.Input("vae", tooltip="The FLUX.1 VAE (ae.safetensors)."),
                io.Combo.Input(
                    "task",
                    options=list(TASKS),
                    default="subject",
                    tooltip=(
                        "subject: an object, animal or character. identity: a face. try-on: a garment. "
                        "style: the look of the whole picture, kept whole."
                    ),
                ),
                io.Int.Input(
                    "resolution",
                    default=512,
                    min=64,
                    max=2048,
                    step=16,
                    tooltip="The reference is resized to about resolution² pixels. DreamO was trained at 512.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.01,
                    tooltip="How much the picture listens to this reference. 1 as trained, 0 as if it were not there.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="The reference takes part from here on, as a part of sampling.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="The reference takes part until here. Outside its range it costs nothing.",
                ),
                io.Mask.Input("mask", optional=True, tooltip="White where the subject is; the rest becomes white."),
                DreamOReferencesType.Input("references", optional=True, tooltip="The chain to add this reference to."),
            ],
            outputs=[
                DreamOReferencesType.Output("references_out", display_name="references"),
                io.Image.Output("preview", tooltip="Exactly the picture the model will see."),
            ],
        )

    @classmethod
    def execute(
        cls, image, vae, task, resolution, strength, start_percent, end_percent, mask=None, references=()
    ) -> io.NodeOutput:
        check_range(start_percent, end_percent)
        picture = prepare_picture(image, task, resolution, mask)
        latent = encode_reference(vae, picture.pixels)
        reference = Reference(picture, latent, task, strength, start_percent, end_percent)
        preview = ui.PreviewImage(picture.pixels, cls=cls)
        return io.NodeOutput(extend(references, reference), picture.pixels, ui=preview)

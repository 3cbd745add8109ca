from comfy_api.latest import io

from ..dreamo_core.host.pictures import prepare
from ..dreamo_core.host.vae import encode_reference
from ..dreamo_core.pictures.prepare import DREAMO, MASK_USES
from ..dreamo_core.sequence.percent import check_range
from ..dreamo_core.sequence.reference import Reference, extend
from .aliases import search_aliases
from .checks import checked
from .preview import show
from .types import DreamOReferencesType
from .widgets import (
    FACES_BEFORE,
    background_input,
    face_order_input,
    face_order_of,
    percent_inputs,
    profile_input,
    resolution_input,
    strength_input,
    task_input,
)


class DreamOReference(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DreamOReference",
            display_name="DreamO Reference",
            **search_aliases("DreamOReference"),
            category="DreamO",
            description=(
                "Prepares one reference picture as DreamO (or UNO and USO) was trained to see it and adds it to a "
                "chain. The first in the chain is reference 1, up to 9."
            ),
            inputs=[
                io.Image.Input("image", tooltip="One picture. An alpha channel is used as the mask if none is given."),
                io.Vae.Input("vae", tooltip="The FLUX.1 VAE (ae.safetensors)."),
                task_input(),
                resolution_input(),
                strength_input(
                    "How much the picture listens to this reference. 1 as trained, 0 as if it were not there."
                ),
                *percent_inputs(
                    "The reference takes part from here on, as a part of sampling.",
                    "The reference takes part until here. Outside its range it costs nothing.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip=(
                        "White where the subject is; the rest becomes white. For an identity: which faces count. "
                        "Load Image gives the opposite for a transparent picture (use Invert Mask)."
                    ),
                ),
                DreamOReferencesType.Input("references", optional=True, tooltip="The chain to add this reference to."),
                background_input(),
                io.Combo.Input(
                    "mask_use",
                    options=list(MASK_USES),
                    default="subject",
                    optional=True,
                    tooltip=(
                        "subject: the mask is the subject. region: the mask is a rough area around it, such as a "
                        "garment on a person, and the subject is searched in there."
                    ),
                ),
                io.Int.Input(
                    "face",
                    default=1,
                    min=1,
                    max=99,
                    optional=True,
                    tooltip="Which face, for an identity in a picture of several people: 1 is the first by face_order.",
                ),
                profile_input(),
                face_order_input(),
            ],
            outputs=[
                DreamOReferencesType.Output("references_out", display_name="references"),
                io.Image.Output("preview", display_name="preview", tooltip="Exactly the picture the model will see."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @checked
    def execute(
        cls,
        image,
        vae,
        task,
        resolution,
        strength,
        start_percent,
        end_percent,
        mask=None,
        references=(),
        background="auto",
        mask_use="subject",
        face=1,
        profile=DREAMO,
        face_order=FACES_BEFORE,
    ) -> io.NodeOutput:
        check_range(start_percent, end_percent)
        picture = prepare(image, task, resolution, mask, background, mask_use, face, profile, face_order_of(face_order))
        latent = encode_reference(vae, picture.pixels)
        reference = Reference(picture, latent, task, strength, start_percent, end_percent)
        return io.NodeOutput(extend(references, reference), picture.pixels, ui=show(cls, [picture]))

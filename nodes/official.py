"""Stand-ins for the three nodes of DreamO's official pack, so that its graphs keep their shape."""

from comfy_api.latest import io

from ..dreamo_core.checkpoint import load_dreamo_model
from ..dreamo_core.checkpoint.read import fingerprint
from ..dreamo_core.graphs.official import OFFICIAL_TASKS
from ..dreamo_core.host.official import embedding_file, with_references_on_model
from ..dreamo_core.host.pictures import prepare
from ..dreamo_core.host.vae import encode_reference
from ..dreamo_core.pictures.face_crop import CENTRE
from ..dreamo_core.sequence.reference import Reference
from .aliases import search_aliases
from .checks import checked
from .preview import show

ProcessorType = io.Custom("DREAMO_PROCESSOR")
CATEGORY = "DreamO/official graphs"
_REFERENCE = "dreamo_reference"
"""In the latent that the official nodes pass on: the reference it is of."""


class DreamOOfficialProcessor(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DreamOOfficialProcessor",
            display_name="DreamO Processor (official graphs)",
            **search_aliases("DreamOOfficialProcessor"),
            category=CATEGORY,
            description=(
                "Stands in for DreamOProcessorLoader in graphs of the official pack. Nothing has to be loaded here: "
                "DreamO Reference (official graphs) brings what it needs."
            ),
            inputs=[],
            outputs=[ProcessorType.Output("processor", display_name="DREAMO_PROCESSOR")],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(None)


class DreamOOfficialReference(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DreamOOfficialReference",
            display_name="DreamO Reference (official graphs)",
            **search_aliases("DreamOOfficialReference"),
            category=CATEGORY,
            description=(
                "Stands in for DreamORefEncode in graphs of the official pack: prepares a picture as DreamO Reference "
                "does. For new graphs take DreamO Reference."
            ),
            inputs=[
                io.Image.Input("pixels", tooltip="One picture."),
                io.Vae.Input("vae", tooltip="The FLUX.1 VAE (ae.safetensors)."),
                io.Int.Input(
                    "resolution",
                    default=512,
                    min=512,
                    max=1024,
                    step=16,
                    tooltip="A reference is resized to about resolution² pixels; a face is always 512 × 512.",
                ),
                io.Combo.Input(
                    "ref_task",
                    options=list(OFFICIAL_TASKS),
                    default="ip",
                    tooltip="ip: subject or garment, on white. id: the aligned face. style: the picture kept whole.",
                ),
            ],
            outputs=[
                io.Latent.Output("reference", display_name="LATENT", tooltip="For DreamO Apply (official graphs)."),
                io.Image.Output("preview", display_name="IMAGE", tooltip="Exactly the picture the model will see."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @checked
    def execute(cls, pixels, vae, resolution, ref_task) -> io.NodeOutput:
        task = OFFICIAL_TASKS[ref_task]
        picture = prepare(pixels, task, resolution, face_order=CENTRE)
        latent = encode_reference(vae, picture.pixels)
        result = {"samples": latent, _REFERENCE: Reference(picture, latent, task)}
        return io.NodeOutput(result, picture.pixels, ui=show(cls, [picture]))


class DreamOOfficialApply(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DreamOOfficialApply",
            display_name="DreamO Apply (official graphs)",
            **search_aliases("DreamOOfficialApply"),
            category=CATEGORY,
            description=(
                "Stands in for ApplyDreamO in graphs of the official pack: up to three references on the model. "
                "DreamO's rows are found by themselves (embedding.safetensors or dreamo.safetensors). For new graphs "
                "take DreamO Apply."
            ),
            inputs=[
                io.Model.Input("model", tooltip="FLUX.1 with DreamO's LoRAs."),
                io.Latent.Input("ref1", tooltip="From DreamO Reference (official graphs)."),
                io.Latent.Input("ref2", optional=True, tooltip="A second reference."),
                io.Latent.Input("ref3", optional=True, tooltip="A third reference."),
            ],
            outputs=[io.Model.Output("model_out", display_name="MODEL")],
        )

    @classmethod
    @checked
    def execute(cls, model, ref1, ref2=None, ref3=None) -> io.NodeOutput:
        given = [(f"ref{n}", latent) for n, latent in enumerate((ref1, ref2, ref3), 1) if latent is not None]
        for name, latent in given:
            if _REFERENCE not in latent:
                raise ValueError(
                    f"{name} is a latent of another node; connect DreamO Reference (official graphs) to it."
                )
        references = tuple(latent[_REFERENCE] for _, latent in given)
        embeddings = load_dreamo_model(embedding_file()).embeddings
        return io.NodeOutput(with_references_on_model(model, references, embeddings))

    @classmethod
    def fingerprint_inputs(cls, **kwargs):
        return fingerprint(embedding_file())

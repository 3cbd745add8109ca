from comfy_api.latest import io, ui

from ..dreamo_core.host.conditioning import attach_references
from ..dreamo_core.host.flux import with_dreamo_references
from ..dreamo_core.host.text_encoder import used_placeholders
from ..dreamo_core.text.placeholders import note_on_unnamed
from ..dreamo_core.text.style import note_on_style
from .aliases import search_aliases
from .checks import checked
from .types import DreamOModelType, DreamOReferencesType

PLAIN = "No DreamO file is connected: the references are plain ones, as for UNO and USO."


class DreamOApply(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DreamOApply",
            display_name="DreamO Apply",
            **search_aliases("DreamOApply"),
            category="DreamO",
            description=(
                "Puts the references on the positive conditioning and teaches the model to read them. Use both "
                "outputs. The negative conditioning stays as it is: it has no references. Without a DreamO file the "
                "references are those of UNO and USO."
            ),
            inputs=[
                io.Model.Input("model", tooltip="A FLUX.1 model, with or without LoRAs."),
                io.Conditioning.Input("positive", tooltip="The prompt; the references are added to every part of it."),
                DreamOReferencesType.Input("references", tooltip="A chain of DreamO Reference nodes."),
                DreamOModelType.Input(
                    "dreamo_model",
                    optional=True,
                    tooltip="From Load DreamO or DreamO Model Stack. Without it the references are plain ones, as UNO "
                    "and USO want them.",
                ),
            ],
            outputs=[
                io.Model.Output("model_out", display_name="model"),
                io.Conditioning.Output("positive_out", display_name="positive"),
            ],
        )

    @classmethod
    @checked
    def execute(cls, model, positive, references, dreamo_model=None) -> io.NodeOutput:
        embeddings = dreamo_model.embeddings if dreamo_model is not None else None
        patched = with_dreamo_references(model, embeddings)
        attached = attach_references(positive, references, embeddings)
        # A prompt without any placeholder is as right as one that has them all.
        used = used_placeholders(positive)
        notes = [
            PLAIN if embeddings is None else "",
            note_on_unnamed(used, len(references)) if used else "",
            note_on_style([reference.task for reference in references], embeddings is not None),
        ]
        return io.NodeOutput(patched, attached, ui=ui.PreviewText("\n".join(note for note in notes if note)))

from comfy_api.latest import io, ui

from ..dreamo_core.host.conditioning import attach_references
from ..dreamo_core.host.flux import with_dreamo_references
from ..dreamo_core.host.schedule import with_schedule
from ..dreamo_core.host.text_encoder import used_placeholders
from ..dreamo_core.sampling.schedule import MODELS_OWN
from ..dreamo_core.text.placeholders import note_on_unnamed
from ..dreamo_core.text.style import note_on_style
from .aliases import search_aliases
from .checks import checked
from .types import DreamOModelType, DreamOReferencesType
from .widgets import schedule_input

AS_THE_PLAIN_MODEL, AS_RELEASED = "as the plain model", "as released"
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
                DreamOReferencesType.Input(
                    "references", optional=True, tooltip="A chain of DreamO Reference nodes; none is allowed."
                ),
                DreamOModelType.Input(
                    "dreamo_model",
                    optional=True,
                    tooltip="From Load DreamO or DreamO Model Stack. Without it the references are plain ones, as UNO "
                    "and USO want them.",
                ),
                io.Latent.Input(
                    "latent", optional=True, tooltip="The latent that will be sampled: its size sets the schedule."
                ),
                schedule_input("the latent"),
                io.Combo.Input(
                    "without_references",
                    options=[AS_THE_PLAIN_MODEL, AS_RELEASED],
                    default=AS_THE_PLAIN_MODEL,
                    optional=True,
                    tooltip=(
                        "What DreamO's noise row does where no reference acts: an empty chain, strengths of 0, before "
                        "or after their range. as the plain model: it goes with the last one. as released: it is "
                        "always added."
                    ),
                ),
            ],
            outputs=[
                io.Model.Output("model_out", display_name="model"),
                io.Conditioning.Output("positive_out", display_name="positive"),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        model,
        positive,
        references=(),
        dreamo_model=None,
        latent=None,
        schedule=MODELS_OWN,
        without_references=AS_THE_PLAIN_MODEL,
    ) -> io.NodeOutput:
        """References on the conditioning, the patch and the schedule on the model.

        The noise row goes with the last reference by default, although the released pipeline always adds it: with a
        strength of 0, or with the node left in a graph that has no reference, the picture is then that of the model
        without DreamO, and a reference that fades out leaves nothing behind.
        """
        embeddings = dreamo_model.embeddings if dreamo_model is not None else None
        patched = with_dreamo_references(model, embeddings)
        patched, schedule_note = with_schedule(patched, schedule, latent, embeddings is not None)
        attached = attach_references(positive, references, embeddings, without_references == AS_RELEASED)
        # A prompt without any placeholder is as right as one that has them all.
        used = used_placeholders(positive)
        notes = [
            PLAIN if embeddings is None else "",
            note_on_unnamed(used, len(references)) if used else "",
            note_on_style([reference.task for reference in references], embeddings is not None),
            schedule_note,
        ]
        return io.NodeOutput(patched, attached, ui=ui.PreviewText("\n".join(note for note in notes if note)))

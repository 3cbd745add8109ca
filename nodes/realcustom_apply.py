from comfy_api.latest import io

from ..dreamo_core.host.realcustom import attach_subjects
from ..dreamo_core.realcustom.picture import PICTURE_PATHS, RELEASED
from ..dreamo_core.realcustom.settings import MASKS_FROM, SOURCES, RealCustomSettings
from .aliases import search_aliases
from .checks import checked
from .types import RealCustomModelType, RealCustomSubjectsType


class RealCustomApply(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="RealCustomApply",
            display_name="RealCustom Apply",
            **search_aliases("RealCustomApply"),
            category="DreamO/realcustom",
            description=(
                "Puts subjects on the conditioning and teaches an SDXL model to read them: in each step it is looked "
                "up where the prompt's words are drawn, and there the pictures act. Use all three outputs, with any "
                "sampler; DreamO Routed Sampler shows the masks."
            ),
            inputs=[
                io.Model.Input("model", tooltip="An SDXL model, with or without LoRAs."),
                io.Conditioning.Input("positive", tooltip="The encoded prompt."),
                io.Conditioning.Input("negative", tooltip="It sees a black picture wherever a subject acts."),
                RealCustomModelType.Input("realcustom", tooltip="From RealCustom Loader."),
                RealCustomSubjectsType.Input("subjects", tooltip="A chain of RealCustom Subject nodes."),
                io.Clip.Input("clip", tooltip="The CLIP that encoded the prompt."),
                io.String.Input("text", multiline=True, tooltip="The same prompt as text."),
                io.Combo.Input(
                    "mask_source",
                    options=list(SOURCES),
                    default="released",
                    tooltip="released: cross-attention of all layers, as in the released code. paper: cross-attention "
                    "of the coarse layers, refined by self-attention of the fine ones; sharper, a little slower.",
                ),
                io.Combo.Input(
                    "masks_from",
                    options=list(MASKS_FROM),
                    default="each step",
                    tooltip="each step: one more pass with the text alone, until the stop. previous step: no more "
                    "pass; the first step has no subjects.",
                ),
                io.Float.Input(
                    "stop",
                    default=0.48,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="After this part of the steps masks stay as they are: 0.48 is 12 of 25 steps.",
                ),
                io.Boolean.Input(
                    "soft",
                    default=True,
                    tooltip="On: inside its mask a subject acts in proportion to the word's map. Off: fully.",
                ),
                io.Boolean.Input(
                    "black_negative",
                    default=True,
                    tooltip="The negative sees a black picture in the masks, as in the released code. Off: the text "
                    "alone.",
                ),
                io.Boolean.Input(
                    "unprojected_pooled",
                    default=False,
                    tooltip="CLIP-G's pooled text without its projection, as the released code has it. Needs "
                    "negative_text.",
                ),
                io.Boolean.Input(
                    "low_memory",
                    default=False,
                    tooltip="Keys and values of pictures are computed in each step and not kept: some 240 MB a "
                    "picture less, a little slower.",
                ),
                io.Combo.Input(
                    "picture_path",
                    options=list(PICTURE_PATHS),
                    default=RELEASED,
                    tooltip="released: the details are every second pixel, as the released weights were made with. "
                    "paper: four tiles.",
                ),
                io.String.Input(
                    "negative_text",
                    multiline=True,
                    optional=True,
                    tooltip="The negative prompt as text; for unprojected_pooled alone.",
                ),
            ],
            outputs=[
                io.Model.Output("model_out", display_name="model"),
                io.Conditioning.Output("positive_out", display_name="positive"),
                io.Conditioning.Output("negative_out", display_name="negative"),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        model,
        positive,
        negative,
        realcustom,
        subjects,
        clip,
        text,
        mask_source,
        masks_from,
        stop,
        soft,
        black_negative,
        unprojected_pooled,
        low_memory,
        picture_path,
        negative_text=None,
    ) -> io.NodeOutput:
        settings = RealCustomSettings(SOURCES[mask_source], masks_from, stop, soft, low_memory)
        return io.NodeOutput(
            *attach_subjects(
                model, positive, negative, realcustom, subjects, clip, text, settings, black_negative, picture_path,
                unprojected_pooled, negative_text,
            )
        )  # fmt: skip

from comfy_api.latest import io

from ..dreamo_core.attention.curve import CURVES, EVEN
from ..dreamo_core.flux import MAX_REFERENCES
from ..dreamo_core.host.conditioning import control_reference
from ..dreamo_core.host.flux import with_references
from ..dreamo_core.pictures.picture import TASKS
from ..dreamo_core.sequence.percent import check_range
from .aliases import search_aliases
from .checks import checked
from .widgets import percent_inputs, strength_input


class DreamOReferenceControl(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DreamOReferenceControl",
            display_name="DreamO Reference Control",
            **search_aliases("DreamOReferenceControl"),
            category="DreamO/references",
            description=(
                "Strength, range and detail of one reference that stock nodes put on a conditioning: FLUX.1 Kontext "
                "and FLUX.2 (dev, klein) with ReferenceLatent, UNO and USO too. One node for each reference; use "
                "both outputs. DreamO Region, Routing and Speed work behind it."
            ),
            inputs=[
                io.Model.Input("model", tooltip="FLUX.1, FLUX.1 Kontext or FLUX.2."),
                io.Conditioning.Input("conditioning", tooltip="Behind the ReferenceLatent nodes."),
                io.Int.Input(
                    "reference",
                    default=1,
                    min=0,
                    max=MAX_REFERENCES,
                    tooltip="Its number, from 1, in the order of the ReferenceLatent nodes. 0: all of them.",
                ),
                strength_input(
                    "How much the picture takes from this reference. 0 is as if it were not there, 1 leaves the model "
                    "alone, bit for bit."
                ),
                *percent_inputs(
                    "Part of sampling at which the reference comes in.", "Part of sampling at which it goes."
                ),
                io.Combo.Input(
                    "task",
                    options=list(TASKS),
                    default="subject",
                    tooltip="For DreamO Routing: a style belongs everywhere and is not confined to a region.",
                ),
                io.Float.Input(
                    "detail",
                    default=1.0,
                    min=0.0,
                    max=3.0,
                    step=0.01,
                    tooltip=(
                        "How much of what tells the reference's own parts apart counts: above 1 it is followed more "
                        "closely, below 1 more loosely. 1 leaves the model alone. Try 0.8 to 1.3."
                    ),
                ),
                io.Combo.Input(
                    "curve",
                    options=list(CURVES),
                    default=EVEN,
                    tooltip=(
                        "Strength along sampling and depth, on top of strength. even: the same everywhere. flexible "
                        "face: weaker early, so the prompt decides pose and expression. style only: hardly anything "
                        "early and in the first blocks. layout only: gone after the first half. Starting points to "
                        "try: the numbers are not measured on released weights."
                    ),
                ),
            ],
            outputs=[
                io.Model.Output("model_out", display_name="model"),
                io.Conditioning.Output("conditioning_out", display_name="conditioning"),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls, model, conditioning, reference, strength, start_percent, end_percent, task, detail, curve
    ) -> io.NodeOutput:
        check_range(start_percent, end_percent)
        controlled = control_reference(
            conditioning,
            reference,
            strength=strength,
            start_percent=start_percent,
            end_percent=end_percent,
            task=task,
            detail=detail,
            curve=curve,
        )
        return io.NodeOutput(with_references(model), controlled)

from comfy_api.latest import io

from ..dreamo_core.host.flux import with_cfg_range
from .aliases import search_aliases
from .checks import checked
from .widgets import percent_inputs


class DreamOTrueCFGRange(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DreamOTrueCFGRange",
            display_name="DreamO True CFG Range",
            **search_aliases("DreamOTrueCFGRange"),
            category="DreamO",
            description=(
                "Lets the negative prompt act in a part of sampling only. Outside it the sampler's cfg counts as 1 "
                "and the negative pass is not run, so those steps cost half."
            ),
            inputs=[
                io.Model.Input("model", tooltip="Any model."),
                *percent_inputs(
                    "The negative prompt acts from here on, as a part of sampling.",
                    "The negative prompt acts until here.",
                ),
            ],
            outputs=[io.Model.Output("model_out", display_name="model")],
        )

    @classmethod
    @checked
    def execute(cls, model, start_percent, end_percent) -> io.NodeOutput:
        return io.NodeOutput(with_cfg_range(model, start_percent, end_percent))

from comfy_api.latest import io

from ..dreamo_core.host.flux import with_cfg_range
from ..dreamo_core.sampling.cfg_range import UNITS, CfgRange
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
            category="DreamO/sampling",
            description=(
                "Lets the negative prompt act in a part of sampling only. Outside it the sampler's cfg counts as 1 "
                "and the negative pass is not run, so those steps cost half."
            ),
            inputs=[
                io.Model.Input("model", tooltip="Any model."),
                *percent_inputs(
                    "The negative prompt acts from here on, as a part of sampling.",
                    "The negative prompt acts until here. For step s of n write (s − ½)/n, or set unit to steps.",
                ),
                io.Combo.Input(
                    "unit",
                    options=list(UNITS),
                    default="percent",
                    optional=True,
                    tooltip="Which of the two ranges counts: percent as everywhere in ComfyUI, or the sampler's steps.",
                ),
                io.Int.Input(
                    "start_step",
                    default=0,
                    min=0,
                    max=10000,
                    optional=True,
                    tooltip="With unit steps: the first step, from 0, in which the negative prompt acts.",
                ),
                io.Int.Input(
                    "end_step",
                    default=1,
                    min=0,
                    max=10000,
                    optional=True,
                    tooltip="With unit steps: the first step in which it no longer acts.",
                ),
            ],
            outputs=[io.Model.Output("model_out", display_name="model")],
        )

    @classmethod
    @checked
    def execute(cls, model, start_percent, end_percent, unit="percent", start_step=0, end_step=0) -> io.NodeOutput:
        wanted = CfgRange(start_percent, end_percent, unit, start_step, end_step)
        return io.NodeOutput(with_cfg_range(model, wanted))

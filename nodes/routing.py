from comfy_api.latest import io

from ..dreamo_core.host.routing import with_routing
from ..dreamo_core.routing.settings import FORMS, MASKS_FROM, SOURCES, RoutingSettings
from .aliases import search_aliases
from .checks import checked


def part(name: str, default: float, tooltip: str, low: float = 0.0, high: float = 1.0) -> io.Float.Input:
    return io.Float.Input(name, default=default, min=low, max=high, step=0.01, tooltip=tooltip)


class DreamORouting(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        preset = RoutingSettings()
        return io.Schema(
            node_id="DreamORouting",
            display_name="DreamO Routing",
            **search_aliases("DreamORouting"),
            category="DreamO/routing",
            description=(
                "Keeps each reference inside its own region: where it answers is read while sampling, and elsewhere "
                "the picture does not look at it. Works with any sampler node, for DreamO references and for plain "
                "uxo ones (UNO, USO). Style references and painted regions are left as they are."
            ),
            inputs=[
                io.Model.Input("model", tooltip="A FLUX.1 model; before or after DreamO Apply."),
                part(
                    "strength",
                    preset.strength,
                    "How firmly references are kept in their regions. 0: not at all, bit for bit. 1: outside of its "
                    "region a reference is not seen.",
                    high=2.0,
                ),
                part(
                    "gamma",
                    preset.gamma,
                    "Largest part of the picture that one reference takes by itself. Raise it for large subjects.",
                    low=0.01,
                ),
                part(
                    "threshold",
                    preset.threshold,
                    "Drops what answers less than this part of the best answer, so that small subjects get small "
                    "regions. With gamma 0.5, 0.5 is a good start.",
                ),
                io.Boolean.Input(
                    "soft",
                    default=preset.soft,
                    tooltip="On: inside its region a reference acts in proportion to its answer. Off: fully.",
                ),
                part(
                    "smoothing",
                    preset.smoothing,
                    "How much of a region comes from parts of the picture that look alike; closes holes.",
                ),
                part("memory", preset.memory, "Weight of earlier steps in the average over steps.", high=0.99),
                part(
                    "stop",
                    preset.stop,
                    "After this part of the steps regions stay as they are; nothing is read any more.",
                ),
                part("outside", preset.outside, "Influence that a reference keeps outside of its region."),
                io.Combo.Input(
                    "source",
                    options=list(SOURCES),
                    default=preset.source,
                    tooltip="What tells where a reference belongs: its own tokens, its words in the prompt ([ref#1] or "
                    "from DreamO Routing Words), or both.",
                ),
                io.Combo.Input(
                    "masks_from",
                    options=list(MASKS_FROM),
                    default=preset.masks_from,
                    tooltip=(
                        "previous step: free; the first step is unrouted. extra first pass: one more pass in front of "
                        "the first step. pass without references: one more pass without references in every step up "
                        "to stop, about 1.5 times the cost of these steps; for prompts whose layout the references "
                        "disturb; needs words."
                    ),
                ),
                io.String.Input(
                    "blocks",
                    default=preset.blocks,
                    tooltip="Blocks to read from: all, double, single, or parts such as: double 5-18, single 0-9.",
                ),
                part(
                    "text_influence", preset.text_influence, "What text tokens see of the references; 1 is unchanged."
                ),
                part(
                    "reference_influence",
                    preset.reference_influence,
                    "What references see of each other; 1 is unchanged.",
                ),
                io.Combo.Input(
                    "form",
                    options=list(FORMS),
                    default=preset.form,
                    tooltip="How the bias is added. Both give the same; low-rank needs no mask in memory.",
                ),
            ],
            outputs=[io.Model.Output("model_out", display_name="model")],
        )

    @classmethod
    @checked
    def execute(cls, model, **settings) -> io.NodeOutput:
        return io.NodeOutput(with_routing(model, RoutingSettings(**settings)))

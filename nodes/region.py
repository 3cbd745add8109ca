from comfy_api.latest import io

from ..dreamo_core.flux import MAX_REFERENCES
from ..dreamo_core.host.routing import add_region, name_words
from ..dreamo_core.routing.regions import make_region
from .aliases import search_aliases
from .checks import checked

FILL, FIND = "fill it", "find its place in it"


class DreamORegion(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DreamORegion",
            display_name="DreamO Region",
            **search_aliases("DreamORegion"),
            category="DreamO/routing",
            description=(
                "A painted region for one reference: it acts there and nowhere else. Several for one reference add "
                "up; where regions of different references overlap, both act. Reference 0 is the background, where "
                "no reference acts. Works with and without DreamO Routing."
            ),
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="The positive one, before or after DreamO Apply."),
                io.Mask.Input("mask", tooltip="Of any size; white where the reference acts. A batch: one per picture."),
                io.Int.Input(
                    "reference",
                    default=1,
                    min=0,
                    max=MAX_REFERENCES,
                    tooltip="Its number in the chain, from 1. 0 is the background.",
                ),
                io.Combo.Input(
                    "mode",
                    options=[FILL, FIND],
                    default=FILL,
                    tooltip="fill it: the region is where the reference acts. find its place in it: its place inside "
                    "the region is found while sampling.",
                ),
                io.Int.Input(
                    "feather",
                    default=0,
                    min=0,
                    max=512,
                    tooltip="Softens the edge by about so many pixels of the mask to each side.",
                ),
                io.Boolean.Input(
                    "hard",
                    default=False,
                    tooltip="On: every 16 × 16 pixels are in or out. Off: grey is partial influence.",
                ),
            ],
            outputs=[io.Conditioning.Output("conditioning_out", display_name="conditioning")],
        )

    @classmethod
    @checked
    def execute(cls, conditioning, mask, reference, mode, feather, hard) -> io.NodeOutput:
        region = make_region(reference, mask, feather, hard, mode == FIND)
        return io.NodeOutput(add_region(conditioning, region))


class DreamORoutingWords(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DreamORoutingWords",
            display_name="DreamO Routing Words",
            **search_aliases("DreamORoutingWords"),
            category="DreamO/routing",
            description=(
                "Says which word of the prompt each reference is, so that DreamO Routing can see from the prompt "
                "where it belongs (source: words or both, and the pass without references)."
            ),
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="The encoded prompt, before or after DreamO Apply."),
                io.Clip.Input("clip", tooltip="The CLIP that encoded the prompt."),
                io.String.Input("text", multiline=True, tooltip="The same prompt as text."),
                io.String.Input(
                    "words",
                    multiline=True,
                    default="cat\ncup of coffee",
                    tooltip="One line for each reference, the first for reference 1: its word or phrase as it stands "
                    "in the prompt. An empty line leaves a reference without a word.",
                ),
            ],
            outputs=[io.Conditioning.Output("conditioning_out", display_name="conditioning")],
        )

    @classmethod
    @checked
    def execute(cls, conditioning, clip, text, words) -> io.NodeOutput:
        return io.NodeOutput(name_words(conditioning, clip, text, words))

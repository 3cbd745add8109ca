from comfy_api.latest import io

from ..dreamo_core.host.text_encoder import encode_prompt, used_placeholders, with_placeholders, with_t5_length
from ..dreamo_core.text.placeholders import check_against_references
from .aliases import search_aliases
from .checks import checked
from .types import DreamOModelType, DreamOReferencesType
from .widgets import t5_length_input


class DreamOPlaceholders(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DreamOPlaceholders",
            display_name="DreamO Placeholders",
            **search_aliases("DreamOPlaceholders"),
            category="DreamO/prompt",
            description=(
                "Teaches a CLIP the placeholders [ref#1] to [ref#9] and [res], so that CLIP Text Encode and "
                "CLIPTextEncodeFlux understand them. Prompts without placeholders keep their tokens."
            ),
            inputs=[
                io.Clip.Input("clip", tooltip="FLUX.1's text encoders (clip_l and t5xxl)."),
                DreamOModelType.Input("dreamo_model", tooltip="From Load DreamO, with T5 rows (dreamo.safetensors)."),
                t5_length_input(),
            ],
            outputs=[io.Clip.Output("clip_out", display_name="clip")],
        )

    @classmethod
    @checked
    def execute(cls, clip, dreamo_model, t5_length=0) -> io.NodeOutput:
        patched = with_placeholders(clip, dreamo_model.embeddings, dreamo_model.path.name)
        return io.NodeOutput(with_t5_length(patched, t5_length))


class DreamOTextEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DreamOTextEncode",
            display_name="DreamO Text Encode",
            **search_aliases("DreamOTextEncode"),
            category="DreamO",
            description=(
                "Encodes a prompt in which [ref#1] means reference 1: "
                '"a woman from [ref#1] and a dog from [ref#2] in the park".'
            ),
            inputs=[
                io.Clip.Input("clip", tooltip="FLUX.1's text encoders (clip_l and t5xxl)."),
                DreamOModelType.Input("dreamo_model", tooltip="From Load DreamO; its T5 rows are the placeholders."),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip=(
                        "Type [ to choose a placeholder: [ref#1] to [ref#9], in the order of the chain. "
                        "Write \\[ref#1\\] if it is meant as plain text."
                    ),
                ),
                io.Float.Input(
                    "guidance",
                    default=4.5,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="FLUX.1's distilled guidance. DreamO v1.1 was tuned for 4.5, v1 for 3.5.",
                ),
                DreamOReferencesType.Input(
                    "references",
                    optional=True,
                    tooltip="The chain that also goes to DreamO Apply: its references are offered while typing, and "
                    "a placeholder without a reference is an error here already.",
                ),
                t5_length_input(),
            ],
            outputs=[io.Conditioning.Output("positive", display_name="positive", tooltip="Goes to DreamO Apply.")],
        )

    @classmethod
    @checked
    def execute(cls, clip, dreamo_model, prompt, guidance, references=None, t5_length=0) -> io.NodeOutput:
        positive = encode_prompt(clip, dreamo_model.embeddings, dreamo_model.path.name, prompt, guidance, t5_length)
        if references is not None:
            check_against_references(used_placeholders(positive), len(references))
        return io.NodeOutput(positive)

from comfy_api.latest import io

from ..dreamo_core.host.messages import say
from ..dreamo_core.text.style import STYLE_TRIGGER, with_style_trigger
from .aliases import search_aliases
from .checks import checked
from .types import DreamOReferencesType


class DreamOStylePrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DreamOStylePrompt",
            display_name="DreamO Style Prompt",
            **search_aliases("DreamOStylePrompt"),
            category="DreamO/prompt",
            description=f"Puts “{STYLE_TRIGGER}” in front of the prompt, as DreamO wants it for a style reference.",
            inputs=[
                io.String.Input("prompt", multiline=True, dynamic_prompts=True, tooltip="The prompt."),
                io.Boolean.Input(
                    "trigger",
                    default=True,
                    tooltip=f"Begin with “{STYLE_TRIGGER}”. A prompt that begins with it already is left alone.",
                ),
                DreamOReferencesType.Input(
                    "references",
                    optional=True,
                    tooltip="With a chain connected, the sentence is added only if a style reference is in it.",
                ),
            ],
            outputs=[io.String.Output("prompt_out", display_name="prompt", tooltip="Goes to the text encoder.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @checked
    def execute(cls, prompt, trigger, references=None) -> io.NodeOutput:
        wanted = trigger and (references is None or any(r.task == "style" for r in references))
        result = with_style_trigger(prompt) if wanted else prompt
        say(getattr(getattr(cls, "hidden", None), "unique_id", None), result)
        return io.NodeOutput(result)

from comfy_api.latest import io

from ..dreamo_core.realcustom.subject import Subject, words_from
from .aliases import search_aliases
from .checks import checked
from .types import RealCustomSubjectsType
from .widgets import percent_inputs, strength_input


class RealCustomSubject(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="RealCustomSubject",
            display_name="RealCustom Subject",
            **search_aliases("RealCustomSubject"),
            category="DreamO/realcustom",
            description=(
                "A picture and the word of the prompt that it is. The picture acts where that word is drawn and "
                "nowhere else. The first in the chain is subject 1, up to 9."
            ),
            inputs=[
                io.Image.Input(
                    "image", tooltip="One picture. It is squashed to a square; its background is not removed."
                ),
                io.String.Input(
                    "words",
                    multiline=True,
                    default="cat",
                    tooltip="The target word or phrase as it stands in the prompt. One line for each thing of the "
                    "picture that is meant, such as boy and horse.",
                ),
                io.Float.Input(
                    "gamma",
                    default=0.2,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="Part of the picture that each word gets. 0.15 to 0.4 is safe; more for large subjects.",
                ),
                strength_input("How much the subject's picture adds. 1 as trained, 0 as if it were not there."),
                *percent_inputs(
                    "The subject takes part from here on, as a part of sampling.",
                    "The subject takes part until here.",
                ),
                RealCustomSubjectsType.Input("subjects", optional=True, tooltip="The chain to add this subject to."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="A painted mask of the new picture: the subject acts there, and its place is not searched.",
                ),
            ],
            outputs=[RealCustomSubjectsType.Output("subjects_out", display_name="subjects")],
        )

    @classmethod
    @checked
    def execute(
        cls, image, words, gamma, strength, start_percent, end_percent, subjects=(), mask=None
    ) -> io.NodeOutput:
        subject = Subject(image, words_from(words), gamma, strength, start_percent, end_percent, mask)
        return io.NodeOutput((*subjects, subject))

"""Widgets that several nodes have."""

from typing import Any

from comfy_api.latest import io

from ..dreamo_core.host.text_encoder import RELEASED_LENGTH
from ..dreamo_core.pictures.face_crop import CENTRE, FACE_ORDERS
from ..dreamo_core.pictures.picture import TASKS
from ..dreamo_core.pictures.prepare import BACKGROUNDS, DREAMO, PROFILES
from ..dreamo_core.sampling.schedule import AS_RELEASED, MODELS_OWN, SCHEDULES

FACES_BEFORE = "as in 0.1.0"
"""In the place of a face order: how it was before there was a choice."""


def before(value: Any, declared: io.WidgetInput) -> io.WidgetInput:
    """An input that came to a released node, with what it is in graphs that were saved without it.

    `web/js/saved_graphs.js` sets that when such a graph is opened; the default is for new nodes.
    """
    # Not as an argument: 0.3.75 takes it for no kind of widget.
    declared.extra_dict = {**declared.extra_dict, "before": value}
    return declared


def task_input(name: str = "task") -> io.Combo.Input:
    return io.Combo.Input(
        name,
        options=list(TASKS),
        default="subject",
        tooltip=(
            "subject: an object, animal or character. identity: a face, aligned and cut out. try-on: a garment. "
            "style: the look of the whole picture, kept whole."
        ),
    )


def background_input() -> io.Combo.Input:
    return io.Combo.Input(
        "background",
        options=list(BACKGROUNDS),
        default="auto",
        optional=True,
        tooltip=(
            "Who cuts the subject out when there is neither mask nor alpha channel. person: people, and animals or "
            "things in front of a calm background. grabcut: things in the middle of the picture. auto: person where it "
            "is sure, else grabcut. keep: the background stays, the mask is not used."
        ),
    )


def resolution_input() -> io.Int.Input:
    return io.Int.Input(
        "resolution",
        default=512,
        min=48,
        max=2048,
        step=16,
        tooltip=(
            "A reference is resized to about resolution² pixels; DreamO was trained at 512. For UNO and USO: the "
            "length of its longer side; 512 for USO and for one UNO or UMO reference, 320 for two or more."
        ),
    )


def profile_input() -> io.Combo.Input:
    return io.Combo.Input(
        "profile",
        options=list(PROFILES),
        default=DREAMO,
        optional=True,
        tooltip=(
            "Which model the picture is for. UNO, USO: kept whole with its background, resized by its longer side, no "
            "face aligned; a mask, an alpha channel, or a background other than auto still puts the subject on white."
        ),
    )


def face_order_input() -> io.Combo.Input:
    declared = io.Combo.Input(
        "face_order",
        options=[*FACE_ORDERS, FACES_BEFORE],
        default=CENTRE,
        optional=True,
        tooltip=(
            "Which face of several is the first, for an identity. centre: the one nearest the middle of the picture, "
            "as released. size: the largest. as in 0.1.0: the largest, with white where its crop leaves the picture."
        ),
    )
    return before(FACES_BEFORE, declared)


def face_order_of(choice: str) -> str | None:
    """The face order that a widget's choice stands for."""
    return None if choice == FACES_BEFORE else choice


def t5_length_input() -> io.Int.Input:
    declared = io.Int.Input(
        "t5_length",
        default=RELEASED_LENGTH,
        min=0,
        max=10000,
        optional=True,
        tooltip=(
            "T5 is padded to at least this many tokens: 512 as DreamO was released and trained. 0: ComfyUI's own 256. "
            "A length from T5 Tokenizer Options in front of this node counts instead."
        ),
    )
    return before(0, declared)


def schedule_input(latent: str) -> io.Combo.Input:
    declared = io.Combo.Input(
        "schedule",
        options=list(SCHEDULES),
        default=AS_RELEASED,
        optional=True,
        tooltip=(
            f"as released: noise levels are shifted by the size of {latent}, as in DreamO's own pipeline, or without "
            "a DreamO file in UNO's and USO's. A ModelSamplingFlux on the model stays. the model's own: nothing is set."
        ),
    )
    return before(MODELS_OWN, declared)


def strength_input(tooltip: str, name: str = "strength") -> io.Float.Input:
    return io.Float.Input(name, default=1.0, min=0.0, max=2.0, step=0.01, tooltip=tooltip)


def percent_inputs(start_tooltip: str, end_tooltip: str) -> list[io.Float.Input]:
    """Start and end of a part of sampling."""
    limits = {"min": 0.0, "max": 1.0, "step": 0.001}
    return [
        io.Float.Input("start_percent", default=0.0, tooltip=start_tooltip, **limits),
        io.Float.Input("end_percent", default=1.0, tooltip=end_tooltip, **limits),
    ]

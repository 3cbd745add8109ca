"""The graphs in `workflows/`, by file name."""

from collections.abc import Callable
from typing import Any

from .combined import inpaint_subject, reference_controlnet_upscale, upscale_with_references
from .families import klein_strengths_and_speed, klein_two_people_regions, kontext_protected_region
from .first import a_first_picture
from .presets import low_vram, quality_v1_1
from .realcustom import (
    realcustom_painted_mask,
    realcustom_subject,
    realcustom_two_subjects,
    realcustom_two_words,
)
from .several import (
    batch_of_prompts,
    regions_by_hand,
    routed_references,
    three_references,
    three_references_fast,
    two_subjects_placeholders,
)
from .tasks import identity, style, subject, try_on_with_identity
from .uno_uso import dreamo_subject_uso_style, umo_identities, uno_subjects, uso_style_edit, uso_subject_style

Builder = Callable[[dict[str, Any]], dict[str, Any]]
"""Takes the host's node definitions, gives the graph as the front end saves it."""

WORKFLOWS: dict[str, Builder] = {
    build.__name__: build
    for build in (
        a_first_picture,
        subject,
        identity,
        try_on_with_identity,
        style,
        three_references,
        three_references_fast,
        two_subjects_placeholders,
        routed_references,
        regions_by_hand,
        batch_of_prompts,
        inpaint_subject,
        reference_controlnet_upscale,
        upscale_with_references,
        low_vram,
        quality_v1_1,
        uno_subjects,
        uso_subject_style,
        uso_style_edit,
        umo_identities,
        dreamo_subject_uso_style,
        klein_two_people_regions,
        klein_strengths_and_speed,
        kontext_protected_region,
        realcustom_subject,
        realcustom_two_words,
        realcustom_two_subjects,
        realcustom_painted_mask,
    )
}

"""What a node shows of the pictures it prepared."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..dreamo_core.host.messages import say
from ..dreamo_core.pictures.picture import Picture


def show(cls: type[io.ComfyNode], pictures: list[Picture]) -> dict:
    """The node's preview: every picture as the model will see it, and in words what was done to it."""
    images = [image for picture in pictures for image in ui.PreviewImage(picture.pixels, cls=cls).as_dict()["images"]]
    notes = [picture.note if len(pictures) == 1 else f"{i}: {picture.note}" for i, picture in enumerate(pictures, 1)]
    hidden = getattr(cls, "hidden", None)
    say(getattr(hidden, "unique_id", None), "\n".join(notes))
    return {"images": images, "animated": (False,), "text": notes}

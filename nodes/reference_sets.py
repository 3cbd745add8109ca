from comfy_api.latest import io

from ..dreamo_core.flux import MAX_REFERENCES
from ..dreamo_core.host import folders as files
from ..dreamo_core.host.pictures import prepare
from ..dreamo_core.host.vae import encode_reference
from ..dreamo_core.pictures.load import load_picture, pictures_in
from ..dreamo_core.pictures.prepare import DREAMO
from ..dreamo_core.sequence.reference import Reference, References, extend
from .aliases import search_aliases
from .checks import checked
from .preview import show
from .types import DreamOReferencesType
from .widgets import (
    FACES_BEFORE,
    background_input,
    face_order_input,
    face_order_of,
    profile_input,
    resolution_input,
    strength_input,
    task_input,
)

SLOTS = (1, 2, 3)


def outputs() -> list:
    return [
        DreamOReferencesType.Output("references_out", display_name="references"),
        io.Image.Output(
            "previews", display_name="previews", is_output_list=True, tooltip="Exactly the pictures the model will see."
        ),
    ]


def chained(references: References, pictures: list, tasks: list[str], strengths: list[float], vae) -> References:
    for picture, task, strength in zip(pictures, tasks, strengths, strict=True):
        references = extend(references, Reference(picture, encode_reference(vae, picture.pixels), task, strength))
    return references


class DreamOReferences(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        inputs = [io.Vae.Input("vae", tooltip="The FLUX.1 VAE (ae.safetensors)."), resolution_input()]
        for i in SLOTS:
            inputs += [
                io.Image.Input(f"image_{i}", optional=True, tooltip=f"Picture {i}; leave it open to do without."),
                io.Mask.Input(f"mask_{i}", optional=True, tooltip=f"White where the subject of picture {i} is."),
                task_input(f"task_{i}"),
                strength_input(f"How much the result listens to picture {i}. 1 as trained.", f"strength_{i}"),
            ]
        inputs.append(background_input())
        inputs.append(DreamOReferencesType.Input("references", optional=True, tooltip="A chain to add these to."))
        inputs += [profile_input(), face_order_input()]
        return io.Schema(
            node_id="DreamOReferences",
            display_name="DreamO References",
            **search_aliases("DreamOReferences"),
            category="DreamO/references",
            description=(
                "Up to three reference pictures in one box. For schedules, regions and faces by number, chain DreamO "
                "Reference."
            ),
            inputs=inputs,
            outputs=outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @checked
    def execute(
        cls, vae, resolution, background="auto", references=(), profile=DREAMO, face_order=FACES_BEFORE, **slots
    ) -> io.NodeOutput:
        used = [i for i in SLOTS if slots.get(f"image_{i}") is not None]
        tasks = [slots[f"task_{i}"] for i in used]
        pictures = [
            prepare(
                slots[f"image_{i}"],
                task,
                resolution,
                slots.get(f"mask_{i}"),
                background,
                profile=profile,
                face_order=face_order_of(face_order),
            )
            for i, task in zip(used, tasks, strict=True)
        ]
        chain = chained(references, pictures, tasks, [slots[f"strength_{i}"] for i in used], vae)
        return io.NodeOutput(chain, [picture.pixels for picture in pictures], ui=show(cls, pictures))


class DreamOReferenceBatch(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DreamOReferenceBatch",
            display_name="DreamO Reference Batch",
            **search_aliases("DreamOReferenceBatch"),
            category="DreamO/references",
            description=(
                f"A folder or a batch of pictures becomes a chain of references with one task, up to {MAX_REFERENCES}. "
                "Folder pictures come in the order of their names (2 before 10)."
            ),
            inputs=[
                io.Vae.Input("vae", tooltip="The FLUX.1 VAE (ae.safetensors)."),
                task_input(),
                resolution_input(),
                strength_input("How much the result listens to each of them. 1 as trained."),
                io.String.Input(
                    "folder",
                    default="",
                    tooltip="A folder inside ComfyUI's input folder, such as my_product. Empty: only the batch.",
                ),
                io.Image.Input("images", optional=True, tooltip="A batch of pictures; they come after the folder's."),
                background_input(),
                DreamOReferencesType.Input("references", optional=True, tooltip="A chain to add these to."),
                profile_input(),
                face_order_input(),
            ],
            outputs=outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @checked
    def execute(
        cls,
        vae,
        task,
        resolution,
        strength,
        folder,
        images=None,
        background="auto",
        references=(),
        profile=DREAMO,
        face_order=FACES_BEFORE,
    ) -> io.NodeOutput:
        paths = pictures_in(files.input_folder(folder)) if folder.strip() else []
        count = len(paths) + (0 if images is None else images.shape[0])
        if count == 0:
            named = f"the folder {folder!r} has none" if folder.strip() else "no folder is named"
            raise ValueError(f"There are no pictures: {named} and no batch is connected.")
        if count + len(references) > MAX_REFERENCES:
            raise ValueError(
                f"DreamO takes at most {MAX_REFERENCES} references, and these are {count} pictures after a chain of "
                f"{len(references)}; take some out."
            )
        loaded = [load_picture(path) for path in paths] + ([] if images is None else list(images.split(1)))
        pictures = [
            prepare(image, task, resolution, None, background, profile=profile, face_order=face_order_of(face_order))
            for image in loaded
        ]
        chain = chained(references, pictures, [task] * count, [strength] * count, vae)
        return io.NodeOutput(chain, [picture.pixels for picture in pictures], ui=show(cls, pictures))

    @classmethod
    def fingerprint_inputs(cls, folder="", **kwargs):
        # A picture added to the folder, or replaced under the same name, must be read.
        if not folder.strip():
            return folder
        stats = [(path.name, path.stat()) for path in pictures_in(files.input_folder(folder))]
        return (folder, *((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats))

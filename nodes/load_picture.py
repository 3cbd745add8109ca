from comfy_api.latest import io, ui

from ..dreamo_core.host import folders as files
from ..dreamo_core.pictures.load import load_picture
from .aliases import search_aliases
from .checks import checked


class DreamOLoadPicture(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DreamOLoadPicture",
            display_name="DreamO Load Picture",
            **search_aliases("DreamOLoadPicture"),
            category="DreamO/references",
            description=(
                "Loads a picture as people have them: phone orientation, colour profiles, 16 bit, CMYK and very large "
                "files come out right, and transparency stays in the picture."
            ),
            inputs=[
                io.Combo.Input(
                    "image",
                    options=files.input_pictures(),
                    upload=io.UploadType.image,
                    image_folder=io.FolderType.input,
                    tooltip="A picture in ComfyUI's input folder.",
                )
            ],
            outputs=[
                io.Image.Output("picture", tooltip="RGB, or RGBA where the file is transparent."),
                io.Mask.Output("mask", tooltip="White where the picture is opaque."),
            ],
        )

    @classmethod
    @checked
    def execute(cls, image) -> io.NodeOutput:
        picture = load_picture(files.input_picture(image))
        opaque = picture[..., 3] if picture.shape[3] == 4 else picture.new_ones(picture.shape[:3])
        return io.NodeOutput(picture, opaque, ui=ui.PreviewImage(picture, cls=cls))

    @classmethod
    def validate_inputs(cls, image):
        # Uploads are newer than the list the schema was made with.
        try:
            files.input_picture(image)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, image):
        stat = files.input_picture(image).stat()
        return (image, stat.st_mtime_ns, stat.st_size)

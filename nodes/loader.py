from comfy_api.latest import io

from ..dreamo_core.checkpoint import load_dreamo_model
from ..dreamo_core.host import files
from .types import DreamOModelType


class DreamOLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DreamOLoader",
            display_name="Load DreamO",
            category="DreamO",
            description="Loads a DreamO file from models/dreamo: dreamo.safetensors, or embedding.safetensors alone.",
            inputs=[
                io.Combo.Input(
                    "dreamo_name",
                    options=files.model_files(),
                    tooltip="A DreamO file in models/dreamo (or a folder named dreamo in extra_model_paths.yaml).",
                ),
            ],
            outputs=[DreamOModelType.Output("dreamo_model", tooltip="Goes to DreamO Apply.")],
        )

    @classmethod
    def execute(cls, dreamo_name) -> io.NodeOutput:
        return io.NodeOutput(load_dreamo_model(files.model_path(dreamo_name)))

    @classmethod
    def fingerprint_inputs(cls, dreamo_name):
        # A file replaced under the same name must be read again.
        stat = files.model_path(dreamo_name).stat()
        return (dreamo_name, stat.st_mtime_ns, stat.st_size)

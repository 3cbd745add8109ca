from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

from ..dreamo_core.checkpoint import load_dreamo_model, load_lora_file
from ..dreamo_core.checkpoint.describe import short_description, unused_message
from ..dreamo_core.checkpoint.read import fingerprint
from ..dreamo_core.host import folders as files
from ..dreamo_core.host.flux import check_flux
from ..dreamo_core.host.lora import with_loras
from ..dreamo_core.host.messages import report
from .aliases import search_aliases
from .checks import checked
from .types import DreamOModelType

NO_MODEL = "Load DreamO's model output is used but its model input is not connected; connect a FLUX.1 model to it."


class DreamOLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        names = files.model_files()
        return io.Schema(
            node_id="DreamOLoader",
            display_name="Load DreamO",
            **search_aliases("DreamOLoader"),
            category="DreamO/models",
            description=(
                "Loads a DreamO file from models/dreamo: its embeddings, and its LoRA onto the model. For the released "
                "set of files with their companions take DreamO Model Stack."
            ),
            inputs=[
                io.Combo.Input(
                    "dreamo_name",
                    options=names,
                    # Listed or not: the front end offers what is missing by this name.
                    default="dreamo.safetensors",
                    tooltip="A DreamO file in models/dreamo (or a folder named dreamo in extra_model_paths.yaml).",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.01,
                    optional=True,
                    tooltip="Strength of the file's LoRA. 1 as trained.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="A FLUX.1 model for the LoRA. Leave it open if the LoRA is loaded elsewhere.",
                ),
            ],
            outputs=[
                DreamOModelType.Output("dreamo_model", tooltip="Goes to DreamO Apply."),
                io.Model.Output("model_out", display_name="model", tooltip="The model with the file's LoRA."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @checked
    def execute(cls, dreamo_name, strength=1.0, model=None) -> io.NodeOutput:
        dreamo = load_dreamo_model(files.model_path(dreamo_name))
        if model is not None:
            check_flux(model, dreamo.embeddings)
            if dreamo.lora is not None:
                model = with_loras(model, [(dreamo.lora, strength)])
        text = (
            short_description(dreamo.lora) if dreamo.lora is not None else f"{dreamo_name}: embeddings alone, no LoRA"
        )
        if dreamo.lora is not None and model is None:
            text += "\nLoRA not applied: no model connected"
        report(text, cls.hidden, unused_message(dreamo.path.name, dreamo.unused))
        return io.NodeOutput(dreamo, ExecutionBlocker(NO_MODEL) if model is None else model)

    @classmethod
    def fingerprint_inputs(cls, dreamo_name, **kwargs):
        return fingerprint(files.model_path(dreamo_name))


class DreamOLora(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DreamOLora",
            display_name="DreamO LoRA (any FLUX.1 format)",
            **search_aliases("DreamOLora"),
            category="DreamO/models",
            description=(
                "Puts a FLUX.1 LoRA of any layout on the model: the released keys of DreamO, UNO and USO (XLabs), "
                "diffusers, BFL/ComfyUI, kohya, PEFT (with its adapter_config.json beside it). What does not fit is an "
                "error, what is not used is named."
            ),
            inputs=[
                io.Model.Input("model", tooltip="A FLUX.1 model."),
                io.Combo.Input("lora_name", options=files.lora_files(), tooltip="From models/dreamo and models/loras."),
                io.Float.Input("strength", default=1.0, min=-10.0, max=10.0, step=0.01, tooltip="0 leaves it out."),
            ],
            outputs=[io.Model.Output("model_out", display_name="model")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @checked
    def execute(cls, model, lora_name, strength) -> io.NodeOutput:
        file = load_lora_file(files.lora_path(lora_name))
        patched = with_loras(model, [(file.lora, strength)])
        report(short_description(file.lora), cls.hidden, unused_message(file.path.name, file.unused))
        return io.NodeOutput(patched)

    @classmethod
    def fingerprint_inputs(cls, lora_name, **kwargs):
        return fingerprint(files.lora_path(lora_name))

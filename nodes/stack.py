from comfy_api.latest import io

from ..dreamo_core.checkpoint.describe import unused_message
from ..dreamo_core.checkpoint.presets import FILES
from ..dreamo_core.checkpoint.read import fingerprint
from ..dreamo_core.checkpoint.stack import CHOICES, chosen, locate, read_stack
from ..dreamo_core.host import folders as files
from ..dreamo_core.host.flux import check_flux
from ..dreamo_core.host.lora import with_loras
from ..dreamo_core.host.messages import report
from .aliases import search_aliases
from .checks import checked
from .types import DreamOModelType

# Released strengths, and the presets that use the file.
STRENGTHS = {
    "dreamo": (1.0, "always"),
    "cfg_distill": (1.0, "v1.1, v1, custom"),
    "sft": (1.0, "v1.1, custom"),
    "dpo": (1.25, "v1.1, custom"),
    "quality_pos": (0.15, "v1, custom"),
    "quality_neg": (-0.8, "v1, custom"),
    "turbo": (1.0, "when turbo is on"),
}


def _choose(preset, turbo, strengths):
    taking_part = chosen(preset, turbo, strengths)
    return taking_part, locate(taking_part, files.find_released, files.expected_folder())


class DreamOModelStack(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        strengths = [
            io.Float.Input(
                name,
                default=default,
                min=-10.0,
                max=10.0,
                step=0.01,
                optional=True,
                tooltip=f"Strength of {FILES[name].name}. Used: {when}."
                + ("" if name == "dreamo" else " At 0 the file is not needed."),
            )
            for name, (default, when) in STRENGTHS.items()
        ]
        return io.Schema(
            node_id="DreamOModelStack",
            display_name="DreamO Model Stack",
            **search_aliases("DreamOModelStack"),
            category="DreamO",
            description=(
                "DreamO with its companion LoRAs as released, in one node. Files are found by name in models/dreamo "
                "and models/loras, in sub-folders too; missing ones are named before anything is loaded."
            ),
            inputs=[
                io.Model.Input("model", tooltip="FLUX.1-dev."),
                io.Combo.Input(
                    "preset",
                    options=list(CHOICES),
                    default="v1.1",
                    tooltip=(
                        "Which companions take part. v1.1: cfg_distill, sft, dpo (guidance 4.5). v1: cfg_distill, "
                        "quality_pos, quality_neg (guidance 3.5). custom: all whose strength is not 0."
                    ),
                ),
                io.Boolean.Input(
                    "use_turbo",
                    default=True,
                    tooltip="FLUX.1-Turbo-Alpha: 12 steps are enough. Off: take 25 or more.",
                ),
                *strengths,
            ],
            outputs=[
                DreamOModelType.Output("dreamo_model", tooltip="Goes to DreamO Apply."),
                io.Model.Output("model_out", display_name="model", tooltip="The model with all LoRAs."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @checked
    def execute(cls, model, preset, use_turbo, **strengths) -> io.NodeOutput:
        strengths = {name: strengths.get(name, default) for name, (default, _) in STRENGTHS.items()}
        taking_part, paths = _choose(preset, use_turbo, strengths)
        stack = read_stack(taking_part, paths, files.find_released(FILES["embedding"]))
        check_flux(model, stack.dreamo.embeddings)
        main = [(stack.dreamo.lora, taking_part["dreamo"])] if stack.dreamo.lora is not None else []
        loras = [*main, *((file.lora, strength) for file, strength in stack.companions)]
        patched = with_loras(model, loras)
        text = f"{len(loras)} LoRAs: " + ", ".join(f"{lora.name} × {strength:g}" for lora, strength in loras)
        unused = [(stack.dreamo.path, stack.dreamo.unused), *((f.path, f.unused) for f, _ in stack.companions)]
        problems = "\n".join(filter(None, (unused_message(path.name, keys) for path, keys in unused)))
        report(text, cls.hidden, problems)
        return io.NodeOutput(stack.dreamo, patched)

    @classmethod
    def fingerprint_inputs(cls, preset, use_turbo, model=None, **strengths):
        strengths = {name: strengths.get(name, default) for name, (default, _) in STRENGTHS.items()}
        paths = [files.find_released(FILES[name]) for name in chosen(preset, use_turbo, strengths)]
        # A file that has come since must be found.
        return [fingerprint(path) if path else None for path in paths]

from comfy_api.latest import io

from ..dreamo_core.checkpoint.describe import unused_message
from ..dreamo_core.checkpoint.presets import FILES, PRESETS, TURBO
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


READ_AT_FIRST = (*PRESETS["v1.1"], TURBO)
NAME = "{}_name"
"""Of the widget with a file's name, by the file's id."""


def _split(widgets):
    """Strengths and file names by file id; graphs from before the names have the released ones."""
    strengths = {id_: widgets.get(id_, default) for id_, (default, _) in STRENGTHS.items()}
    return strengths, {id_: widgets.get(NAME.format(id_), FILES[id_].name) for id_ in STRENGTHS}


def _find(names):
    """Looks for a file: by its released name in all folders, and by its other names; by a chosen name just there."""

    def find(file):
        name = names[file.id]
        return files.find_released(file) if name == file.name else files.lora_path(name)

    return find


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
        known = files.lora_files()
        names = [
            io.Combo.Input(
                NAME.format(name),
                # The front end offers a file that is not listed: that is right for what a new graph reads.
                options=known if name in READ_AT_FIRST else sorted({*known, FILES[name].name}),
                default=FILES[name].name,
                optional=True,
                tooltip=f"Used: {when}. Under its released name it is found in sub-folders too.",
            )
            for name, (_, when) in STRENGTHS.items()
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
                *names,
            ],
            outputs=[
                DreamOModelType.Output("dreamo_model", tooltip="Goes to DreamO Apply."),
                io.Model.Output("model_out", display_name="model", tooltip="The model with all LoRAs."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @checked
    def execute(cls, model, preset, use_turbo, **widgets) -> io.NodeOutput:
        strengths, names = _split(widgets)
        taking_part = chosen(preset, use_turbo, strengths)
        paths = locate(taking_part, _find(names), files.expected_folder())
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
    def validate_inputs(
        cls, dreamo_name=None, cfg_distill_name=None, sft_name=None, dpo_name=None, quality_pos_name=None,
        quality_neg_name=None, turbo_name=None,
    ):  # fmt: skip
        # Whether a file is needed depends on the preset; `execute` names all that are missing at once.
        return True

    @classmethod
    def fingerprint_inputs(cls, preset, use_turbo, model=None, **widgets):
        strengths, names = _split(widgets)
        find = _find(names)
        paths = [find(FILES[name]) for name in chosen(preset, use_turbo, strengths)]
        # A file that has come since must be found.
        return [fingerprint(path) if path else None for path in paths]

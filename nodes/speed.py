from comfy_api.latest import io

from ..dreamo_core.host.folders import constant_store_folder
from ..dreamo_core.host.reuse import carried_by, expected_cost, with_policy
from ..dreamo_core.reuse.constant import ConstantStore
from ..dreamo_core.reuse.policy import CONSTANT, PRESETS, REFRESH_POLICIES, STORES, ReusePolicy
from ..dreamo_core.sequence.reference import conditioning_for
from .aliases import search_aliases
from .checks import checked
from .types import DreamOReferencesType

CUSTOM = "custom"

DEFAULTS = PRESETS["balanced"]


class DreamOSpeed(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DreamOSpeed",
            display_name="DreamO Speed",
            **search_aliases("DreamOSpeed"),
            category="DreamO/sampling",
            description=(
                "Makes references cheap: background tokens leave the sequence, and the references' keys and values are "
                "kept from step to step. Goes anywhere between the model loader and the sampler; for references of "
                "stock nodes too (UNO, USO, FLUX.1 Kontext, FLUX.2)."
            ),
            inputs=[
                io.Model.Input(
                    "model", tooltip="FLUX.1, FLUX.1 Kontext or FLUX.2, anywhere between loader and sampler."
                ),
                io.Combo.Input(
                    "preset",
                    options=[*PRESETS, CUSTOM],
                    default="balanced",
                    tooltip=(
                        "Expected time for three 512² references at 1024² in 12 steps, as a factor of plain Flux, if "
                        "half of each reference is background, and error of the latent as a part of the spread between "
                        "seeds (random weights). exact: 1.89, no error. balanced: 1.13, error 5 %. fast: 1.10, error "
                        "8 %. constant: 1.13, by the rule of FLUX.2-klein-9b-kv: references see only each other, and "
                        "what was made of them serves every run, prompt and seed; other models give another picture. "
                        "custom: the settings below, which the other presets ignore."
                    ),
                ),
                io.Boolean.Input(
                    "low_memory",
                    default=False,
                    tooltip=(
                        "Keep the keys and values in the computer's memory and copy them over while the model computes "
                        "(with every preset). Saves up to 2 GB on the GPU for three references."
                    ),
                ),
                io.Boolean.Input(
                    "prune",
                    default=DEFAULTS.prune,
                    tooltip="custom: leave out tokens that show only background. Needs a reference with a mask.",
                ),
                io.Int.Input(
                    "margin",
                    default=DEFAULTS.margin,
                    min=0,
                    max=64,
                    tooltip="custom: tokens (16 pixels each) kept around the subject. One keeps most of the accuracy.",
                ),
                io.Float.Input(
                    "keep_ratio",
                    default=DEFAULTS.keep_ratio,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="custom: part of the other background tokens kept anyway, evenly spread. 1 prunes nothing.",
                ),
                io.Combo.Input(
                    "refresh",
                    options=list(REFRESH_POLICIES),
                    default=DEFAULTS.refresh,
                    tooltip=(
                        "custom: when the references run again. always: at each step, nothing is kept. every n steps: "
                        "by count. sigma distance: when the noise level has moved far enough. drift: when their "
                        "features at the first block have changed enough. never: only at the first step. "
                        "constant: see preset."
                    ),
                ),
                io.Int.Input("interval", default=DEFAULTS.interval, min=1, max=1000, tooltip="custom: every n steps."),
                io.Float.Input(
                    "sigma_distance",
                    default=DEFAULTS.sigma_distance,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip=(
                        "custom: of sigma distance; noise levels run from 1 to 0. 0.45 refreshes about halfway, 0.3 "
                        "twice, 0 at each step."
                    ),
                ),
                io.Float.Input(
                    "drift",
                    default=DEFAULTS.drift,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="custom: of drift; relative change that calls for a refresh. 0 refreshes at each step.",
                ),
                io.Combo.Input(
                    "store",
                    options=list(STORES),
                    default=DEFAULTS.store,
                    tooltip="custom: fp8 halves what is kept; its error is far below that of reuse itself.",
                ),
                DreamOReferencesType.Input(
                    "references", optional=True, tooltip="The chain, for the report; it changes nothing else."
                ),
                io.Int.Input(
                    "width", default=1024, min=16, max=16384, step=8, optional=True, tooltip="For the report only."
                ),
                io.Int.Input(
                    "height", default=1024, min=16, max=16384, step=8, optional=True, tooltip="For the report only."
                ),
                io.Int.Input("steps", default=12, min=1, max=1000, optional=True, tooltip="For the report only."),
                io.Float.Input(
                    "keep_share",
                    default=1.0,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip=(
                        "Part of each reference's tokens that stays after the first step: those that the picture looks "
                        "at most. Needs no mask; with every preset but constant. 1 keeps all."
                    ),
                ),
                io.Float.Input(
                    "keep_gb",
                    default=4.0,
                    min=0.0,
                    max=1000.0,
                    step=0.5,
                    optional=True,
                    tooltip=(
                        "constant: how many GB of keys and values are kept for other runs, in the computer's memory "
                        "and as much in ComfyUI's user folder. 0 keeps them for one run only."
                    ),
                ),
                io.Conditioning.Input(
                    "conditioning",
                    optional=True,
                    tooltip="Instead of the chain, for the report: behind ReferenceLatent or DreamO Apply.",
                ),
            ],
            outputs=[
                io.Model.Output("model_out", display_name="model"),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="Expected cost and memory of the chain; show it with Preview Any.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        model,
        preset,
        low_memory,
        references=(),
        width=1024,
        height=1024,
        steps=12,
        keep_share=1.0,
        keep_gb=4.0,
        conditioning=None,
        **advanced,
    ) -> io.NodeOutput:
        chosen = advanced if preset == CUSTOM else vars(PRESETS[preset])
        settings = ReusePolicy(**{**chosen, "low_memory": low_memory, "keep_share": keep_share})
        keeps = settings.refresh == CONSTANT and keep_gb > 0
        store = ConstantStore(constant_store_folder(), int(keep_gb * 1e9)) if keeps else None
        patched = with_policy(model, settings, store)
        if references:
            carried, latents = conditioning_for(references, None), [r.latent for r in references]
        elif conditioning is not None:
            carried, latents = carried_by(conditioning)
        else:
            return io.NodeOutput(patched, "Connect the chain to `references` to see what it will cost.")
        return io.NodeOutput(patched, expected_cost(patched, settings, carried, latents, width, height, steps))

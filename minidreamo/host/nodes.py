from comfy_api.latest import io, ui

from ...dreamo_core.host.lora import with_loras
from ...nodes.aliases import search_aliases
from ...nodes.checks import checked
from ...nodes.types import DreamOModelType
from . import examples, mini_world, small_models

SEED = io.Int.Input("seed", default=0, min=0, max=2**32 - 1, tooltip="Seed of the weights.")


class DreamODemoModels(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DreamODemoModels",
            display_name="DreamO Demo Models",
            **search_aliases("DreamODemoModels"),
            category="DreamO/demo",
            description=(
                "Small stand-ins for FLUX.1, its text encoders and its VAE: every graph runs in seconds without a "
                "download."
            ),
            inputs=[
                SEED,
                io.Combo.Input(
                    "weights",
                    options=["random", "mini world"],
                    default="random",
                    optional=True,
                    tooltip=(
                        "random: made from the seed, every picture is noise. mini world: trained on emoji with this "
                        "pack's own trainer, for pictures of 96 × 96 and references of 48 × 48."
                    ),
                ),
            ],
            outputs=[
                io.Model.Output("model"),
                io.Clip.Output("clip"),
                io.Vae.Output("vae"),
                DreamOModelType.Output("dreamo_model", tooltip="Goes to DreamO Text Encode and DreamO Apply."),
                io.Model.Output(
                    "model_with_dreamo",
                    tooltip="The model with DreamO's LoRA, as Load DreamO and DreamO Model Stack give it. With random "
                    "weights there is no LoRA.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(cls, seed, weights="random") -> io.NodeOutput:
        if weights == "mini world":
            flux, dreamo = mini_world.mini_flux(), mini_world.mini_dreamo()
            clip, vae = mini_world.mini_text_encoders(), mini_world.MiniVae()
            return io.NodeOutput(flux, clip, vae, dreamo, with_loras(flux, [(dreamo.lora, 1.0)]))
        flux = small_models.small_flux(seed, **small_models.DEMO_FLUX_CONFIG)
        dreamo = small_models.small_dreamo(seed, **small_models.DEMO_FLUX_CONFIG)
        clip, vae = small_models.small_text_encoders(seed), small_models.small_vae(seed)
        return io.NodeOutput(flux, clip, vae, dreamo, flux)


class DreamOExamplePicture(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DreamOExamplePicture",
            display_name="DreamO Example Picture",
            **search_aliases("DreamOExamplePicture"),
            category="DreamO/demo",
            description=(
                "A picture that comes with the pack, with the outputs of Load Image: put that in its place for a "
                "picture of your own."
            ),
            inputs=[
                io.Combo.Input(
                    "picture",
                    options=list(examples.pictures()),
                    tooltip="Those of the mini world are drawings that its weights have never seen, of 48 × 48.",
                )
            ],
            outputs=[
                io.Image.Output("image_out", display_name="image"),
                io.Mask.Output("mask_out", display_name="mask", tooltip="White where the picture is transparent."),
            ],
        )

    @classmethod
    @checked
    def execute(cls, picture) -> io.NodeOutput:
        image, mask = examples.load(picture)
        return io.NodeOutput(image, mask, ui=ui.PreviewImage(image, cls=cls))


class DreamODemoControlNet(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DreamODemoControlNet",
            display_name="DreamO Demo ControlNet (random weights)",
            **search_aliases("DreamODemoControlNet"),
            category="DreamO/demo",
            description="A small Flux ControlNet with random weights that fits DreamO Demo Models.",
            inputs=[
                io.Combo.Input(
                    "layout",
                    options=["union", "xlabs"],
                    tooltip="union: InstantX's, needs the VAE at the apply node. xlabs: takes the hint as pixels.",
                ),
                SEED,
            ],
            outputs=[io.ControlNet.Output("control_net")],
        )

    @classmethod
    @checked
    def execute(cls, layout, seed) -> io.NodeOutput:
        return io.NodeOutput(small_models.small_controlnet(layout, seed, **small_models.DEMO_FLUX_CONFIG))


class DreamODemoUSO(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DreamODemoUSO",
            display_name="DreamO Demo USO (random weights)",
            category="DreamO/demo",
            description=(
                "Small stand-ins for USO's projector and its image encoder, with random weights; they fit DreamO Demo "
                "Models. For the host's USOStyleReference."
            ),
            **search_aliases("DreamODemoUSO"),
            inputs=[SEED],
            outputs=[io.Custom("MODEL_PATCH").Output("model_patch"), io.ClipVision.Output("clip_vision")],
        )

    @classmethod
    @checked
    def execute(cls, seed) -> io.NodeOutput:
        projector = small_models.small_uso_projector(small_models.DEMO_FLUX_CONFIG["hidden_size"], seed)
        return io.NodeOutput(projector, small_models.small_clip_vision(seed))

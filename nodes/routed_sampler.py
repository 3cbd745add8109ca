import torch
from comfy_api.latest import io, ui

from ..dreamo_core.host.conditioning import attach_references
from ..dreamo_core.host.flux import with_dreamo_references
from ..dreamo_core.host.messages import say
from ..dreamo_core.host.routing import sample_routed
from ..dreamo_core.host.samplers import sampler_names, scheduler_names
from ..dreamo_core.host.schedule import with_schedule
from ..dreamo_core.routing.drawing import heat_pictures, map_picture, region_masks, step_strip
from ..dreamo_core.sampling.schedule import MODELS_OWN
from .aliases import search_aliases
from .checks import checked
from .types import DreamOModelType, DreamOReferencesType, DreamORoutingMapsType
from .widgets import schedule_input


class DreamORoutedSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DreamORoutedSampler",
            display_name="DreamO Routed Sampler",
            **search_aliases("DreamORoutedSampler"),
            category="DreamO/routing",
            description=(
                "The host's KSampler with every reference kept where it belongs, and pictures of where that was. "
                "Routing settings come from a DreamO Routing node in front of it; without one they are its defaults."
            ),
            inputs=[
                io.Model.Input("model", tooltip="A FLUX.1 model, with or without DreamO Routing and DreamO Apply."),
                io.Conditioning.Input("positive", tooltip="With references of DreamO Apply, or none if given here."),
                io.Conditioning.Input("negative", tooltip="Has no references; unused at cfg 1."),
                io.Latent.Input("latent_image", tooltip="The latent to start from."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Of the noise.",
                ),
                io.Int.Input("steps", default=12, min=1, max=10000, tooltip="12 with the turbo LoRA, else 25 or more."),
                io.Float.Input(
                    "cfg", default=1.0, min=0.0, max=100.0, step=0.1, tooltip="1 with the distilled DreamO LoRA."
                ),
                io.Combo.Input("sampler_name", options=sampler_names(), default="euler", tooltip="As in KSampler."),
                io.Combo.Input("scheduler", options=scheduler_names(), default="simple", tooltip="As in KSampler."),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Below 1 the latent's layout is kept; as in KSampler.",
                ),
                io.Boolean.Input(
                    "live_maps", default=True, tooltip="Show the regions in the preview while sampling runs."
                ),
                DreamOReferencesType.Input(
                    "references", optional=True, tooltip="A chain of references; not if DreamO Apply has put them on."
                ),
                DreamOModelType.Input(
                    "dreamo_model",
                    optional=True,
                    tooltip="For these references. Without it they are plain ones (UNO, USO).",
                ),
                schedule_input("latent_image, for references that are given here"),
            ],
            outputs=[
                io.Latent.Output("latent", display_name="latent", tooltip="The sampled latent."),
                io.Mask.Output(
                    "masks",
                    display_name="masks",
                    tooltip="One mask for each reference, where it acted at the end; a batch in chain order.",
                ),
                io.Image.Output(
                    "heat_maps",
                    display_name="heat_maps",
                    tooltip="One picture for each reference: how much each place answered.",
                ),
                DreamORoutingMapsType.Output(
                    "routing_maps", display_name="maps", tooltip="Every step, for DreamO Routing Preview."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @checked
    def execute(
        cls,
        model,
        positive,
        negative,
        latent_image,
        live_maps,
        references=None,
        dreamo_model=None,
        schedule=MODELS_OWN,
        **settings,
    ) -> io.NodeOutput:
        if references is not None:
            embeddings = dreamo_model.embeddings if dreamo_model is not None else None
            model = with_dreamo_references(model, embeddings)
            positive = attach_references(positive, references, embeddings)
            model, note = with_schedule(model, schedule, latent_image, embeddings is not None)
            say(getattr(getattr(cls, "hidden", None), "unique_id", None), note)
        latent, maps = sample_routed(model, positive, negative, latent_image, live_maps, **settings)
        return io.NodeOutput(latent, region_masks(maps), heat_pictures(maps), maps)


class DreamORoutingPreview(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DreamORoutingPreview",
            display_name="DreamO Routing Preview",
            **search_aliases("DreamORoutingPreview"),
            category="DreamO/routing",
            description="Where each reference acted: a colour each over the picture, with a legend, and step by step.",
            inputs=[
                DreamORoutingMapsType.Input("maps", tooltip="From DreamO Routed Sampler."),
                io.Float.Input(
                    "opacity", default=0.8, min=0.0, max=1.0, step=0.05, tooltip="Of the colours over the picture."
                ),
                io.Image.Input("image", optional=True, tooltip="The decoded pictures; without them, black."),
            ],
            outputs=[
                io.Image.Output("overlay", display_name="overlay", tooltip="One for each picture."),
                io.Image.Output(
                    "steps",
                    display_name="steps",
                    tooltip="Map and region of each reference, step by step; one for each picture.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(cls, maps, opacity, image=None) -> io.NodeOutput:
        samples = maps.last()[0].shape[1]
        pictures = [None] * samples if image is None else [image[n % len(image)][..., :3] for n in range(samples)]
        overlays = torch.stack([map_picture(maps, n, picture, opacity) for n, picture in enumerate(pictures)])
        strips = torch.stack([step_strip(maps, n) for n in range(samples)])
        return io.NodeOutput(overlays, strips, ui=ui.PreviewImage(overlays, cls=cls))

"""The graph to open first: it runs right after the pack is installed, on the models and pictures that come with it."""

from __future__ import annotations

from typing import Any

from graph import Graph, Slot

NOTE = """# Press Run: nothing has to be downloaded

*DreamO Demo Models* stand in for FLUX.1: small models that this pack's own trainer taught to draw emoji, 96 × 96. \
They have never seen the subjects of these references.

**One reference.** [ref#1] in the prompt is the first reference of the chain.

**Two references, routed.** [ref#2] is the second. The routed sampler keeps each of them where it belongs, and the \
last picture shows where that is. Type [ in a prompt to choose a reference; exchange *left of* for *right of* and run \
again.

**Your own pictures and FLUX.1:** open the template *subject*. Every model it needs has a Download button."""

# As in the demo: a subject stands on nine of 36 tokens, too few to grade, and there is no step to lose.
ROUTING = {"gamma": 0.25, "soft": False, "masks_from": "extra first pass"}
SIDE, REFERENCE = 96, 48


class MiniGraph(Graph):
    """A graph on the mini world."""

    def __init__(self, object_info: dict[str, Any], note: str):
        super().__init__(object_info)
        self.note(note)
        self.group("Models")
        _, self.clip, self.vae, self.dreamo, self.model = self.add("DreamODemoModels", seed=0, weights="mini world")
        (self.latent,) = self.add("EmptySD3LatentImage", width=SIDE, height=SIDE, batch_size=1)
        (self.negative,) = self.add("CLIPTextEncode", title="Negative (unused at cfg 1)", clip=self.clip, text="")

    def prompted(self, text: str, *pictures: str) -> tuple[Slot, Slot]:
        """A chain of references and a prompt that names them."""
        chained: dict[str, Slot] = {}
        for picture in pictures:
            image, _ = self.add("DreamOExamplePicture", picture=f"mini world: {picture}")
            chain, _ = self.add(
                "DreamOReference", image=image, vae=self.vae, task="subject", resolution=REFERENCE, **chained
            )
            chained = {"references": chain}
            self.column()
        (positive,) = self.add(
            "DreamOTextEncode", clip=self.clip, dreamo_model=self.dreamo, prompt=text, guidance=3.5, **chained
        )
        return positive, chained["references"]

    def show(self, latent: Slot, name: str) -> Slot:
        (image,) = self.add("VAEDecode", samples=latent, vae=self.vae)
        self.add("SaveImage", images=image, filename_prefix=f"DreamO/{name}")
        return image


def a_first_picture(info: dict[str, Any]) -> dict[str, Any]:
    graph = MiniGraph(info, NOTE)
    common = {"negative": graph.negative, "latent_image": graph.latent, "steps": 12, "cfg": 1.0}
    common |= {"sampler_name": "euler", "scheduler": "simple"}
    graph.group("One reference")
    positive, chain = graph.prompted("a pineapple from [ref#1], on plain blue", "pineapple-noto")
    model, positive = graph.add(
        "DreamOApply", model=graph.model, positive=positive, references=chain, dreamo_model=graph.dreamo
    )
    graph.column()
    (latent,) = graph.add("KSampler", model=model, positive=positive, seed=1, **common)
    graph.show(latent, "one_reference")
    graph.group("Two references, routed")
    positive, chain = graph.prompted(
        "a pizza from [ref#1] left of a snowman from [ref#2], on plain purple", "pizza-fluent", "snowman-noto"
    )
    (model,) = graph.add("DreamORouting", model=graph.model, **ROUTING)
    graph.column()
    latent, _, _, maps = graph.add(
        "DreamORoutedSampler", model=model, positive=positive, seed=2, references=chain, dreamo_model=graph.dreamo,
        **common,
    )  # fmt: skip
    image = graph.show(latent, "two_references")
    graph.column()
    overlay, _ = graph.add("DreamORoutingPreview", maps=maps, image=image)
    graph.add("PreviewImage", title="Where each of them acted", images=overlay)
    return graph.to_json()

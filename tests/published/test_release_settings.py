"""Every shipped graph samples as its model was released: size, steps, guidance, sampler, schedule, text length.

Sources: bytedance/DreamO app.py (sliders: 768 to 1024 in steps of 16, 1024 by default; 12 steps with turbo and 25
without; guidance 4.5 for v1.1 and 3.5 for v1; references of 512) and dreamo_generator.py; bytedance/UNO app.py and
uno/flux/pipeline.py (512 to 2048; 25 steps; guidance 4; references of 512, or 320 for two or more); bytedance/USO
app.py and inference.py (512 to 1536, 1024 by default; 25 steps; guidance 4; content of 512); bytedance/UMO
demo/UNO/app.py (768 to 1024; otherwise UNO's). All sample with Euler and pad T5 to 512 tokens.
"""

import json

import pytest
from graph import to_prompt
from support import REPO

SIDES = {"DreamO": (768, 1024), "UNO": (512, 2048), "USO": (512, 1536), "UMO": (768, 1024)}
GUIDANCE = {"DreamO": 4.5, "UNO": 4.0, "USO": 4.0, "UMO": 4.0}
LORAS = {
    "dit_lora.safetensors": "UNO", "uso-flux1-dit-lora-v1.safetensors": "USO", "UMO_UNO.safetensors": "UMO",
}  # fmt: skip


def is_of_a_release(path):
    """Whether a graph reads released files of these four: the mini world and other families have their own settings."""
    nodes = json.loads(path.read_text())["nodes"]
    loras = {value for node in nodes if node["type"] == "DreamOLora" for value in node["widgets_values"]}
    return any(node["type"] == "DreamOModelStack" for node in nodes) or bool(loras & set(LORAS))


PATHS = [path for path in sorted((REPO / "workflows").glob("*.json")) if is_of_a_release(path)]


class Release:
    """A graph as the server gets it, and which release it is of."""

    def __init__(self, path, object_info):
        self.prompt = to_prompt(json.loads(path.read_text()), object_info)
        (self.stack,) = self.of("DreamOModelStack") or (None,)
        loras = [LORAS[node["lora_name"]] for node in self.of("DreamOLora")]
        # DreamO with USO's style on top is sampled as DreamO.
        self.family = "DreamO" if self.stack else loras[0]

    def of(self, *kinds):
        return [node["inputs"] for node in self.prompt.values() if node["class_type"] in kinds]

    def samplers(self):
        """First passes: those that draw a picture from noise."""
        return [node for node in self.of("KSampler", "DreamORoutedSampler") if node["denoise"] == 1.0]


def test_all_graphs_of_the_four_are_looked_at():
    names = {path.stem for path in PATHS}
    assert len(names) >= 20 and {"subject", "uno_subjects", "uso_style_edit", "umo_identities"} <= names


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def release(request, demo_server):
    return Release(request.param, demo_server.object_info())


def test_sampler_steps_and_guidance(release):
    steps = 12 if release.stack and release.stack["use_turbo"] else 25
    assert release.samplers()
    for node in release.samplers():
        assert (node["sampler_name"], node["scheduler"], node["cfg"], node["steps"]) == ("euler", "simple", 1.0, steps)
    values = [node["guidance"] for node in release.of("FluxGuidance", "DreamOTextEncode")]
    assert values and set(values) == {GUIDANCE[release.family]}
    assert release.stack is None or release.stack["preset"] == "v1.1"


def test_size(release):
    low, high = SIDES[release.family]
    for latent in release.of("EmptySD3LatentImage"):
        sides = [latent["width"], latent["height"]]
        if not any(isinstance(side, list) for side in sides):
            assert all(low <= side <= high and side % 16 == 0 for side in sides), sides
    references = release.of("DreamOReference", "DreamOReferences")
    count = len(references)
    wanted = {"DreamO": 512, "USO": 512, "UNO": 512 if count == 1 else 320, "UMO": 512 if count == 1 else 320}
    profile = "DreamO" if release.family == "DreamO" else "UNO, USO"
    assert {(node["resolution"], node["profile"]) for node in references} == {(wanted[release.family], profile)}


def test_keep_size_is_the_content_picture_times_two(release):
    """USO's keep_size: 1024/512 of what the model sees of the content."""
    for latent in release.of("EmptySD3LatentImage"):
        if isinstance(latent["width"], list):
            size = release.prompt[latent["width"][0]]
            scaled = release.prompt[size["inputs"]["image"][0]]
            reference, output = scaled["inputs"]["image"]
            assert latent["height"] == [latent["width"][0], 1] and latent["width"][1] == 0
            assert (size["class_type"], scaled["inputs"]["scale_by"]) == ("GetImageSize", 1024 / 512)
            assert (release.prompt[reference]["class_type"], output) == ("DreamOReference", 1)


def test_the_schedule_is_shifted_by_the_latent_that_is_sampled(release):
    for number, node in release.prompt.items():
        if node["class_type"] == "DreamOApply":
            assert node["inputs"]["schedule"] == "as released"
            sampled = [
                n["inputs"]["latent_image"] for n in release.prompt.values()
                if n["class_type"] == "KSampler" and [number, 0] == n["inputs"]["model"]
                or n["class_type"] == "KSampler" and [number, 1] == n["inputs"]["positive"]
            ]  # fmt: skip
            # A second pass goes on with the schedule of the first.
            assert node["inputs"]["latent"] in sampled
    for node in release.of("DreamORoutedSampler"):
        assert node["schedule"] == "as released"
    assert not release.of("ModelSamplingFlux")


def test_t5_is_padded_to_512_tokens(release):
    """Every prompt, positive or negative, is encoded behind the node that says so."""
    encoders = release.of("CLIPTextEncode", "DreamOTextEncode")
    assert encoders
    for node in encoders:
        options = release.prompt[node["clip"][0]]
        assert options["class_type"] == "T5TokenizerOptions"
        assert (options["inputs"]["min_padding"], options["inputs"]["min_length"]) == (0, 512)
        assert node.get("t5_length", 512) == 512


def test_style_pictures_of_uso_are_squashed_not_cut(release):
    for node in release.of("CLIPVisionEncode"):
        assert node["crop"] == "none"

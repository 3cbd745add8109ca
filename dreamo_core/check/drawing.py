"""Running graphs on the user's server: reference pictures, the shipped graphs, and every setting at full size."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load

from ..measure.client import ComfyClient, PromptError
from ..measure.files import write_whole
from ..measure.graphs import Models, Setting, loaded, reference_prompt
from ..measure.machine import describe_server
from ..measure.prompt import to_prompt
from ..measure.timing import timed_run
from ..reuse.policy import PRESETS as SPEEDS
from .files import ROLES, usable_name
from .host_models import Loaders, fit_files, models_of
from .steps import Result, Results, Skip

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"

SAMPLES = {
    "dreamo_astronaut.png": "portrait photo of a woman with curly hair in an orange overall, grey wall",
    "dreamo_cat.png": "photo of a ginger cat, whole head, looking at the camera, plain background",
    "dreamo_coffee.png": "photo of a red cup of coffee on a wooden table, seen from above",
    "dreamo_rocket.png": "photo of a white rocket on its launch pad, blue sky",
    "dreamo_sketch.png": "pencil drawing of a cat, cross-hatching on paper",
    "dreamo_table.png": "photo of a cup of coffee on a wooden table, an empty place beside it",
    "dreamo_shirt.png": "product photo of a white shirt with red stripes, lying flat, grey background",
    "dreamo_trousers.png": "product photo of blue jeans, lying flat, grey background",
}
"""What the shipped graphs load, and how the user's own FLUX.1 draws a stand-in for it."""

TRIO = ("dreamo_astronaut.png", "dreamo_cat.png", "dreamo_coffee.png")
TRIO_TASKS = ("subject", "subject", "subject")
TRIO_PROMPT = (
    "a woman from [ref#1] with a cat from [ref#2] on her lap and a cup of coffee from [ref#3] on the table in front of "
    "her, photo"
)

PLAIN, FULL, ROUTED = "plain", "full references", "routed"


def variants(setting: Setting) -> dict[str, Setting]:
    """The settings that are timed, by name; the first has no references."""
    speeds = {f"speed: {name}": replace(setting, speed=name) for name in SPEEDS}
    return {PLAIN: setting, FULL: setting, **speeds, ROUTED: replace(setting, routing={})}


@dataclass(frozen=True)
class Studio:
    """The user's server with what is drawn there.

    Attributes:
        setting: the full one; `small` of the shipped graphs' first try.
        references: folder with the user's own pictures in place of drawn ones, or None.
    """

    client: ComfyClient
    loaders: Loaders | None
    setting: Setting
    small: Setting
    out: Path
    references: Path | None = None

    def look(self, results: Results) -> Result:
        """Whether the server runs and has the nodes."""
        result, stats, info = Result(), self.client.system_stats(), self.client.object_info()
        result.facts = {"machine": describe_server(stats), "official": "ApplyDreamO" in info}
        missing = [name for name in ("DreamOModelStack", "DreamORouting", "DreamOSpeed") if name not in info]
        if missing:
            raise ValueError(f"The server runs without this pack ({', '.join(missing)} missing); see its log.")
        result.good(f"ComfyUI {result.facts['machine']['ComfyUI']} runs with this pack.")
        return result

    def models(self, results: Results) -> Models:
        """FLUX.1 as the user has it.

        Raises:
            Skip: a file is missing.
        """
        if self.loaders is not None:
            return models_of(self.loaders)
        return loaded(*(usable_name(results, role) for role in ("flux", "clip_l", "t5", "vae")))

    def _info(self, results: Results) -> dict[str, Any]:
        if results["server"].status != "done":
            raise Skip("The server does not run; start ComfyUI and run the same command again.")
        return self.client.object_info()

    def run(self, results: Results, prompt: dict[str, Any], name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Outputs and cost of a prompt; the picture of its node `save` lies at `pictures/NAME.png`."""
        instead = {name: usable_name(results, role.id) for role in ROLES if role.needed == "everything"
                   for name in role.names} if self.loaders is None else {}  # fmt: skip
        fitted = fit_files(prompt, self._info(results), self.loaders, instead)
        outputs, cost = timed_run(self.client, fitted)
        if "save" in outputs:
            write_whole(self.out / "pictures" / f"{name}.png", self.client.fetch(outputs["save"]["images"][0]))
        return outputs, asdict(cost)

    def sample(self, results: Results, file: str) -> Result:
        """A stand-in for a picture that the graphs load: the user's own, or drawn by the user's FLUX.1."""
        result, name = Result(), Path(file).stem
        own = self.references / file if self.references else None
        if own is not None and own.is_file():
            content = own.read_bytes()
        else:
            plain = replace(self.setting, stack=None)
            prompt = reference_prompt(self._info(results), self.models(results), plain, SAMPLES[file], [], 1)
            self.run(results, prompt, name)
            content = (self.out / "pictures" / f"{name}.png").read_bytes()
        content = _prepared(content, file)
        write_whole(self.out / "pictures" / f"{name}.png", content)
        result.facts = {"uploaded": self.client.upload(content, ".png", "dreamo_check")}
        result.pictures = [(f"pictures/{name}.png", SAMPLES[file] if own is None else file)]
        return result

    def uploaded(self, results: Results, file: str) -> str:
        """Name of a sample on the server.

        Raises:
            Skip: it could not be made.
        """
        found = results.get(f"sample {file}")
        if found is None or "uploaded" not in found.facts:
            raise Skip(f"There is no picture for {file}.")
        return found.facts["uploaded"]

    def shipped(self, results: Results, path: Path) -> Result:
        """A shipped graph, at few steps and a small size."""
        workflow = json.loads(path.read_text(encoding="utf-8"))
        prompt = to_prompt(workflow, self._info(results))
        for content in prompt.values():
            inputs = content["inputs"]
            if content["class_type"] == "LoadImage":
                inputs["image"] = self.uploaded(results, inputs["image"])
            if isinstance(inputs.get("steps"), int):
                inputs["steps"] = min(inputs["steps"], self.small.steps)
            for side, limit in (("width", self.small.width), ("height", self.small.height)):
                if isinstance(inputs.get(side), int):
                    inputs[side] = min(inputs[side], limit)
            if isinstance(inputs.get("megapixels"), int | float):
                inputs["megapixels"] = min(inputs["megapixels"], self.small.width * self.small.height / 2**20)
        outputs, cost = self.run(results, prompt, path.stem)
        every = [image for output in outputs.values() for image in output.get("images", [])]
        images = [image for image in every if image["type"] == "output"]
        if not images:
            raise PromptError("The graph saved no picture.")
        result = Result(facts={"cost": cost, "pictures": len(images)})
        content = self.client.fetch(images[0])
        write_whole(self.out / "pictures" / f"graph_{path.stem}.png", content)
        result.pictures = [(f"pictures/graph_{path.stem}.png", path.stem)]
        if _is_flat(content):
            result.fault("The picture is of one colour: something gave NaN or nothing.")
        else:
            result.good(f"{len(images)} pictures, {cost['seconds']:.1f} s.")
        return result

    def variant(self, results: Results, name: str, seed: int) -> Result:
        """One setting with one seed at full size: cost, latent, picture, regions."""
        setting = variants(self.setting)[name]
        references = [] if name == PLAIN else [
            (self.uploaded(results, file), task) for file, task in zip(TRIO, TRIO_TASKS, strict=True)
        ]  # fmt: skip
        text = TRIO_PROMPT if references else _plain_words(TRIO_PROMPT)
        prompt = reference_prompt(
            self._info(results), self.models(results), setting, text, references, seed, "DreamO/check", latent=True
        )
        file = f"{name.replace(': ', '_').replace(' ', '_')}_{seed}"
        outputs, cost = self.run(results, prompt, file)
        write_whole(self.out / "latents" / f"{file}.latent", self.client.fetch(outputs["latent_file"]["latents"][0]))
        for number, image in enumerate(outputs.get("regions", {}).get("images", []), start=1):
            write_whole(self.out / "pictures" / f"region_{number}_{seed}.png", self.client.fetch(image))
        result = Result(facts={"cost": cost, "file": file})
        result.pictures = [(f"pictures/{file}.png", f"{name}, seed {seed}")]
        step = cost["step_seconds"]
        result.good(f"{step:.3f} s a step" if step is not None else f"{cost['seconds']:.1f} s")
        return result

    def latent(self, file: str) -> torch.Tensor:
        """A sampled latent, as float32."""
        return load((self.out / "latents" / f"{file}.latent").read_bytes())["latent_tensor"].float()


def _plain_words(prompt: str) -> str:
    for number in range(1, len(TRIO) + 1):
        prompt = prompt.replace(f" from [ref#{number}]", "")
    return prompt


def _prepared(content: bytes, file: str) -> bytes:
    """PNG; the table gets a transparent place, which the graph for inpainting fills."""
    with Image.open(io.BytesIO(content)) as opened:
        picture = opened.convert("RGB")
    if file == "dreamo_table.png":
        alpha = Image.new("L", picture.size, 255)
        width, height = picture.size
        ImageDraw.Draw(alpha).ellipse((width * 0.6, height * 0.1, width * 0.95, height * 0.8), fill=0)
        picture.putalpha(alpha)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _is_flat(content: bytes) -> bool:
    with Image.open(io.BytesIO(content)) as picture:
        return float(np.asarray(picture.convert("RGB"), np.float32).std()) < 1.0


def workflow_files(names: Sequence[str] | None) -> list[Path]:
    """The shipped graphs, or those of these names."""
    found = sorted(WORKFLOWS.glob("*.json"))
    return [path for path in found if names is None or path.stem in names]


def samples_of(paths: Sequence[Path]) -> list[str]:
    """Pictures that these graphs, and the trio, load."""
    named = {file for path in paths for file in SAMPLES if file in path.read_text(encoding="utf-8")}
    return sorted(named | set(TRIO))

"""The real server: the pack's import, every shipped workflow, and what a user sees when something is wrong."""

import functools
import io
import json
import re
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from comfy_server import PromptError, Server
from example_inputs import write_example_inputs
from graph import LOADERS, NOT_EXECUTED, inputs_of, is_widget, to_prompt, use_demo_models
from PIL import Image, ImageFilter
from support import REPO
from workflow_graphs import WORKFLOWS


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    base = tmp_path_factory.mktemp("comfyui")
    write_example_inputs(base)
    with Server(base) as running:
        yield running


@pytest.fixture(scope="module")
def object_info(server):
    return server.object_info()


def test_the_pack_is_imported_without_a_warning_in_under_two_seconds(server):
    log = server.log()
    (seconds,) = re.findall(r"([\d.]+) seconds: .*ComfyUI-DreamO-Routed", log)
    print(f"\nimport: {seconds} s", end="")
    assert float(seconds) < 2.0
    assert "IMPORT FAILED" not in log
    about_us = [line for line in log.splitlines() if "dreamo" in line.lower()]
    assert not [line for line in about_us if re.search(r"warn|error|traceback|cannot", line, re.IGNORECASE)]


def test_every_node_is_there_with_tooltips(object_info):
    ours = {name: info for name, info in object_info.items() if name.startswith("DreamO")}
    assert {"DreamOLoader", "DreamOModelStack", "DreamOLora", "DreamOReference", "DreamOApply"} <= set(ours)
    for name, info in ours.items():
        assert (REPO / "web" / "docs" / f"{name}.md").exists(), f"{name} has no help page"
        for input_name, _, options in inputs_of(info):
            assert options.get("tooltip"), f"{name}.{input_name} has no tooltip"
        assert info["description"] and info["display_name"].startswith(("DreamO", "Load DreamO"))
    assert not {"ApplyDreamO", "DreamORefEncode", "DreamOProcessorLoader"} & set(ours)


def workflow_files():
    return sorted((REPO / "workflows").glob("*.json"))


def test_the_shipped_workflows_are_those_that_the_builder_writes(object_info):
    assert {path.stem for path in workflow_files()} == set(WORKFLOWS)
    for path in workflow_files():
        assert json.loads(path.read_text()) == WORKFLOWS[path.stem](object_info), f"{path.name}: run build_workflows.py"


@pytest.mark.parametrize("path", workflow_files(), ids=lambda path: path.stem)
def test_workflow_is_well_formed(path, object_info):
    """Every node is known, every link joins what it says it joins, and every required input is fed."""
    workflow = json.loads(path.read_text())
    by_id = {node["id"]: node for node in workflow["nodes"]}
    for link_id, source, out_slot, target, in_slot, kind in workflow["links"]:
        assert by_id[source]["outputs"][out_slot]["type"] == kind
        assert link_id in by_id[source]["outputs"][out_slot]["links"]
        assert by_id[target]["inputs"][in_slot]["link"] == link_id
    for node in workflow["nodes"]:
        if node["type"] in NOT_EXECUTED:
            continue
        fed = {slot["name"] for slot in node["inputs"] if slot["link"] is not None}
        for name, kind, options in inputs_of(object_info[node["type"]]):
            if name in object_info[node["type"]]["input"].get("required", {}) and not is_widget(kind, options):
                assert name in fed, f"{node['type']} has nothing at {name}"


@dataclass(frozen=True)
class Run:
    """What became of a workflow: its prompt, the classes of nodes that ran, its pictures, its prepared references."""

    prompt: dict
    ran: list[str]
    saved: list[Path]
    references: list[Path]


@pytest.fixture(scope="module")
def run_of(server, object_info):
    """Runs a shipped workflow with its model loaders swapped, once however many tests ask for it."""

    @functools.cache
    def run(name):
        prompt = use_demo_models(to_prompt(json.loads((REPO / "workflows" / f"{name}.json").read_text()), object_info))
        for node in prompt.values():
            # SDXL's graphs have its size and steps, which take minutes on a CPU even with small models.
            if node["class_type"] == "EmptyLatentImage":
                node["inputs"].update(width=512, height=512)
            if any(n["class_type"] == "RealCustomApply" for n in prompt.values()) and "steps" in node["inputs"]:
                node["inputs"]["steps"] = 2
        ran = []
        outputs = server.run(prompt, ran.append)
        shown = {n: o for n, o in outputs.items() if prompt[n]["class_type"].startswith("DreamOReference")}
        return Run(prompt, ran, server.image_files(outputs), server.image_files(shown, "temp"))

    return run


@pytest.mark.parametrize("path", workflow_files(), ids=lambda path: path.stem)
def test_workflow_runs(path, run_of):
    run = run_of(path.stem)
    # A reference that an earlier run prepared comes from the host's cache and is not shown again.
    pictures_of = {
        node["class_type"]: sum(name.startswith("image") for name in node["inputs"])
        for node in run.prompt.values()
        if node["class_type"].startswith("DreamOReference")
    }
    assert len(run.references) == sum(count * run.ran.count(kind) for kind, count in pictures_of.items())
    assert run.saved
    for file in run.saved:
        with Image.open(file) as picture:
            low, high = zip(*picture.getextrema(), strict=True)
            # The first graph runs on the mini world, which draws nothing larger.
            assert min(picture.size) >= (96 if path.stem == "a_first_picture" else 512) and max(high) > min(low)
    assert any("step" in line for line in run.ran)


@pytest.mark.parametrize("path", workflow_files(), ids=lambda path: path.stem)
def test_only_loaders_are_swapped_to_run_a_workflow(path, object_info):
    prompt = to_prompt(json.loads(path.read_text()), object_info)
    swapped = use_demo_models(prompt)
    for node, content in prompt.items():
        if content["class_type"] in LOADERS:
            assert node not in swapped
            continue
        assert swapped[node]["class_type"] == content["class_type"]
        for name, value in content["inputs"].items():
            assert swapped[node]["inputs"][name] == value or swapped[node]["inputs"][name][0].startswith("demo")


def test_a_batch_of_prompts_prepares_its_references_once(run_of):
    run = run_of("batch_of_prompts")
    prompts = [node["inputs"]["prompt"] for node in run.prompt.values() if node["class_type"] == "DreamOTextEncode"]
    assert len(set(prompts)) == len(run.saved) == 3
    # At most one of each: an earlier workflow may have left one in the host's cache.
    assert run.ran.count("DreamOReference") <= 2 < run.ran.count("DreamOApply") == run.ran.count("KSampler")
    pictures = [np.asarray(Image.open(file)) for file in run.saved]
    assert not (pictures[0] == pictures[1]).all() and not (pictures[1] == pictures[2]).all()


def test_inpainting_draws_inside_the_mask_alone(server, run_of):
    result = Image.open(run_of("inpaint_subject").saved[0])
    place = Image.open(REPO / "pictures" / "table.webp")
    resized = place.resize(result.size, Image.Resampling.LANCZOS)
    difference = np.abs(np.asarray(result, float) - np.asarray(resized.convert("RGB"), float)).max(axis=2)
    # The soft edge reaches 15 pixels; the picture's sides are cut by a few to fit.
    inside, outside = np.asarray(resized.split()[3]) < 128, np.asarray(resized.split()[3]) == 255
    outside = np.asarray(Image.fromarray(outside).filter(ImageFilter.MinFilter(51)))
    assert difference[outside].mean() < 4 < 40 < difference[inside].mean()


def test_upscaling_enlarges_the_picture_and_samples_again(run_of):
    run = run_of("upscale_with_references")
    with Image.open(run.saved[0]) as picture:
        assert picture.size == (1152, 1152)
    assert run.ran.count("KSampler") == 2 and "UpscaleModelLoader" in run.ran


def test_the_template_browser_gets_every_workflow_with_its_thumbnail(server):
    """The front end asks for the list, then for NAME.jpg beside each and, when one is opened, for NAME.json."""
    listed = server.get("/api/workflow_templates")
    assert sorted(listed["ComfyUI-DreamO-Routed"]) == [path.stem for path in workflow_files()]
    for path in workflow_files():
        address = f"{server.url}/api/workflow_templates/ComfyUI-DreamO-Routed/{path.stem}"
        with urllib.request.urlopen(f"{address}.json", timeout=30) as answer:
            assert json.load(answer) == json.loads(path.read_text())
        with urllib.request.urlopen(f"{address}.jpg", timeout=30) as answer:
            assert answer.headers["Content-Type"] == "image/jpeg"
            content = answer.read()
        assert len(content) < 60_000
        with Image.open(io.BytesIO(content)) as picture:
            assert picture.format == "JPEG" and picture.size == (512, 512)


def subject_prompt(object_info):
    workflow = json.loads((REPO / "workflows" / "subject.json").read_text())
    prompt = use_demo_models(to_prompt(workflow, object_info))
    (latent,) = [n for n in prompt.values() if n["class_type"] == "EmptySD3LatentImage"]
    latent["inputs"] |= {"width": 128, "height": 128}
    return prompt


def test_a_missing_dreamo_file_is_named_by_the_server(server, object_info):
    prompt = subject_prompt(object_info)
    (stack,) = [n for n in prompt.values() if n["class_type"] == "DreamOModelStack"]
    stack["inputs"]["preset"] = "v1"
    with pytest.raises(PromptError, match="(?s)2 files are missing.*dreamo_quality_lora_pos.*dreamo_quality_lora_neg"):
        server.run(prompt)


def test_an_upside_down_range_is_one_clear_error_and_the_server_goes_on(server, object_info):
    prompt = subject_prompt(object_info)
    (reference,) = [n for n in prompt.values() if n["class_type"] == "DreamOReference"]
    reference["inputs"] |= {"start_percent": 0.9, "end_percent": 0.1}
    with pytest.raises(PromptError, match="^DreamOReference: start_percent must not be above end_percent"):
        server.run(prompt)
    assert server.image_files(server.run(subject_prompt(object_info)))

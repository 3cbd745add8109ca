"""The real server: the pack's import, every shipped workflow, and what a user sees when something is wrong."""

import json
import re
import sys
from pathlib import Path

import pytest
from PIL import Image

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO / "scripts"))

from build_workflows import WORKFLOWS  # noqa: E402
from comfy_server import PromptError, Server  # noqa: E402
from example_inputs import write_demo_dreamo, write_photographs  # noqa: E402
from graph import NOT_EXECUTED, inputs_of, is_widget, to_prompt, use_demo_models  # noqa: E402


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    base = tmp_path_factory.mktemp("comfyui")
    write_photographs(base)
    write_demo_dreamo(base)
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


@pytest.mark.parametrize("path", workflow_files(), ids=lambda path: path.stem)
def test_workflow_runs(path, server, object_info):
    prompt = use_demo_models(to_prompt(json.loads(path.read_text()), object_info))
    progress = []
    outputs = server.run(prompt, progress.append)
    (saved,) = server.image_files(outputs)
    of_references = {node: shown for node, shown in outputs.items() if prompt[node]["class_type"] == "DreamOReference"}
    previews = server.image_files(of_references, "temp")
    # A reference that an earlier run prepared comes from the host's cache and is not shown again.
    assert len(previews) == progress.count("DreamOReference")
    with Image.open(saved) as picture:
        low, high = zip(*picture.getextrema(), strict=True)
        assert min(picture.size) >= 512 and max(high) > min(low)
    assert any("step" in line for line in progress)


def one_reference_prompt(object_info):
    workflow = json.loads((REPO / "workflows" / "one_reference.json").read_text())
    prompt = use_demo_models(to_prompt(workflow, object_info))
    (latent,) = [n for n in prompt.values() if n["class_type"] == "EmptySD3LatentImage"]
    latent["inputs"] |= {"width": 128, "height": 128}
    return prompt


def test_a_missing_dreamo_file_is_named_by_the_server(server, object_info):
    prompt = one_reference_prompt(object_info)
    (stack,) = [n for n in prompt.values() if n["class_type"] == "DreamOModelStack"]
    stack["inputs"]["preset"] = "v1"
    with pytest.raises(PromptError, match="(?s)2 files are missing.*dreamo_quality_lora_pos.*dreamo_quality_lora_neg"):
        server.run(prompt)


def test_an_upside_down_range_is_one_clear_error_and_the_server_goes_on(server, object_info):
    prompt = one_reference_prompt(object_info)
    (reference,) = [n for n in prompt.values() if n["class_type"] == "DreamOReference"]
    reference["inputs"] |= {"start_percent": 0.9, "end_percent": 0.1}
    with pytest.raises(PromptError, match="^DreamOReference: start_percent must not be above end_percent"):
        server.run(prompt)
    assert server.image_files(server.run(one_reference_prompt(object_info)))

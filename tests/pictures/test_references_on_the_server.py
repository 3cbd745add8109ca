"""The reference nodes on the real server: what a second seed redoes, and what a user sees on the node."""

import json

import pytest
from comfy_server import PromptError, Server
from example_inputs import write_example_inputs
from graph import to_prompt, use_demo_models
from PIL import Image
from skimage import data
from support import REPO


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    base = tmp_path_factory.mktemp("comfyui")
    write_example_inputs(base)
    for name, picture in (("one.png", data.astronaut()), ("two.png", data.coffee()), ("three.png", data.cat())):
        Image.fromarray(picture).save(base / "input" / name)
    with Server(base) as running:
        yield running


@pytest.fixture(scope="module")
def prompt(server):
    """The shipped graph of one reference, small, with the compact box in place of the single reference."""
    workflow = json.loads((REPO / "workflows" / "subject.json").read_text())
    prompt = use_demo_models(to_prompt(workflow, server.object_info()))
    (latent,) = [n for n in prompt.values() if n["class_type"] == "EmptySD3LatentImage"]
    latent["inputs"] |= {"width": 64, "height": 64}
    for node in prompt.values():
        if "steps" in node["inputs"]:
            node["inputs"]["steps"] = 1
    ((key, single),) = [(k, n) for k, n in prompt.items() if n["class_type"] == "DreamOReference"]
    inputs = {"vae": single["inputs"]["vae"], "resolution": 128, "background": "auto"}
    for i, (name, task) in enumerate((("one.png", "identity"), ("two.png", "subject"), ("three.png", "style")), 1):
        prompt[f"picture{i}"] = {"class_type": "DreamOLoadPicture", "inputs": {"image": name}}
        inputs |= {f"image_{i}": [f"picture{i}", 0], f"task_{i}": task, f"strength_{i}": 1.0}
    prompt[key] = {"class_type": "DreamOReferences", "inputs": inputs}
    return prompt


def kept(server):
    """The prepared pictures, by file: a new preparation puts a new file (another inode) in place."""
    folder = server.base / "temp" / "dreamo_pictures"
    return {path.name: path.stat().st_ino for path in folder.glob("*.safetensors")}


def with_seed(prompt, seed):
    changed = json.loads(json.dumps(prompt))
    found = 0
    for node in changed.values():
        for name in ("seed", "noise_seed"):
            if name in node["inputs"] and not node["class_type"].startswith("DreamODemo"):
                node["inputs"][name] = seed
                found += 1
    assert found
    return changed


def run(server, prompt):
    executed = []
    return server.run(prompt, executed.append), executed


def shown_by_the_box(prompt, outputs):
    """What the box sent to the front end; other nodes send notes of their own."""
    (key,) = [key for key, node in prompt.items() if node["class_type"] == "DreamOReferences"]
    return outputs[key]


def test_another_seed_prepares_nothing_and_one_changed_setting_prepares_nothing_either(server, prompt):
    outputs, executed = run(server, with_seed(prompt, 1))
    assert executed.count("DreamOReferences") == 1
    first = kept(server)
    assert len(first) == 3
    words = shown_by_the_box(prompt, outputs)["text"]
    assert "face 1 of 1" in words[0] and "GrabCut" in words[1] and "kept whole" in words[2]

    _, executed = run(server, with_seed(prompt, 2))
    assert "DreamOReferences" not in executed and any("step" in line for line in executed)
    assert kept(server) == first

    stronger = with_seed(prompt, 2)
    (box,) = [node for node in stronger.values() if node["class_type"] == "DreamOReferences"]
    box["inputs"]["strength_2"] = 0.5
    _, executed = run(server, stronger)
    assert executed.count("DreamOReferences") == 1
    assert kept(server) == first  # ran again, prepared nothing

    box["inputs"]["image_2"] = ["picture3", 0]
    run(server, stronger)
    assert len(kept(server)) == 4 and first.items() <= kept(server).items()


@pytest.mark.long
def test_the_previews_are_the_prepared_pictures(server, prompt):
    changed = with_seed(prompt, 1)
    (box,) = [node for node in changed.values() if node["class_type"] == "DreamOReferences"]
    box["inputs"]["resolution"] = 256
    outputs, _ = run(server, changed)
    shown = shown_by_the_box(changed, outputs)
    sizes = [Image.open(path).size for path in server.image_files({"box": shown}, "temp")]
    assert sizes == [(512, 512), (304, 208), (304, 208)]


@pytest.mark.long
def test_a_folder_outside_the_input_folder_is_one_clear_error(server, prompt):
    changed = with_seed(prompt, 1)
    ((key, box),) = [(k, n) for k, n in changed.items() if n["class_type"] == "DreamOReferences"]
    inputs = {"vae": box["inputs"]["vae"], "task": "subject", "resolution": 64, "strength": 1.0, "folder": "../models"}
    changed[key] = {"class_type": "DreamOReferenceBatch", "inputs": inputs}
    with pytest.raises(PromptError, match="^DreamOReferenceBatch: '../models' lies outside"):
        run(server, changed)
    assert run(server, with_seed(prompt, 3))[0]

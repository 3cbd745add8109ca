"""Each graph on a ComfyUI without any model: a Download button for every file that it needs, and nothing else wrong."""

import json
import re

import pytest
from comfy_server import Server
from front_end import Page, needs_browser
from screenshot import write_settings
from support import REPO

pytestmark = [*needs_browser, pytest.mark.every_front_end]

GRAPHS = sorted((REPO / "workflows").glob("*.json"))

OPEN = """
    document.querySelectorAll('.p-dialog-close-button').forEach((button) => button.click());
    await app.loadGraphData(args[0], true, true, args[1]);
"""
# The file each Download button is for: the nearest name around it. Newer front ends list them behind a message.
OFFERED = """
    const buttons = [...document.querySelectorAll('button')];
    const details = buttons.find((b) => b.innerText.trim() === 'View details');
    details?.click();
    return buttons.filter((b) => /^Download( \\(|$)/.test(b.innerText.trim())).map((button) => {
        let around = button;
        while (around && !/[\\w.-]+\\.safetensors/.test(around.innerText)) around = around.parentElement;
        return around?.innerText.match(/[\\w.-]+\\.safetensors/)[0];
    }).sort();
"""
# What newer front ends count: missing models, pictures and nodes, and values that are not in their lists.
COUNTED = "return document.body.innerText.match(/(\\d+) (?:issues?|errors?) found/)?.[1]"


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory):
    base = tmp_path_factory.mktemp("bare")
    write_settings(base, missing_models=True)
    with Server(base) as server:
        page = Page(browser, server)
        page.errors()
        yield page


def wanted(workflow):
    return sorted({model["name"] for node in workflow["nodes"] for model in node["properties"].get("models", ())})


# The smallest graph here; all of them take minutes.
EVERY = [pytest.param(path, marks=() if path.stem == "subject" else pytest.mark.long, id=path.stem) for path in GRAPHS]


@pytest.mark.parametrize("path", EVERY)
def test_every_missing_file_can_be_downloaded(path, page):
    workflow = json.loads(path.read_text())
    files = wanted(workflow)
    # Guards `wanted`: every file that a widget names.
    named = {value for node in workflow["nodes"] for value in node.get("widgets_values", ()) if isinstance(value, str)}
    named = {value for value in named if re.fullmatch(r"[\w.-]+\.safetensors", value)}
    assert {value for value in named if "quality" not in value and "Turbo" not in value} <= set(files)
    page.reload()
    page.errors()
    page.call(OPEN, workflow, path.stem)
    page.wait(lambda: sorted(set(page.call(OFFERED))) == files, 60)
    assert page.call(COUNTED) in (None, str(len(files)))
    assert len(page.dialogs()) <= bool(files)
    assert not [error for error in page.errors() if "Error fetching file size" not in error]


def test_addresses_are_ones_the_front_end_downloads_from():
    for path in GRAPHS:
        for node in json.loads(path.read_text())["nodes"]:
            for model in node["properties"].get("models", ()):
                # RealCustom is released as a .pth alone: the front end names it and leaves the download to the user.
                released = r"RealCustom\w*\.pth" if model["directory"] == "realcustom" else r".+\.safetensors"
                assert re.fullmatch(rf"https://huggingface\.co/[\w.-]+/[\w.-]+/resolve/main/{released}", model["url"])
                # FLUX.1-dev's own repository asks for an account.
                assert "black-forest-labs/FLUX.1-dev/" not in model["url"]

"""From nothing to a picture: the pack as it is cloned, a ComfyUI folder of its own, the first template, Run."""

import shutil
import subprocess
import time

import pytest
from comfy_server import Server
from front_end import Page, needs_browser
from host import PACK_NAME
from PIL import Image
from support import REPO

pytestmark = [*needs_browser, pytest.mark.every_front_end]

FIRST = "a_first_picture"

# What choosing a template in the dialog does.
OPEN = """
    const answer = await fetch(`/api/workflow_templates/${args[0]}/${args[1]}.json`);
    await app.loadGraphData(await answer.json(), true, true, args[1]);
"""
RUN = """
    const button = [...document.querySelectorAll('button')].find((b) => /^Run\\b/.test(b.innerText.trim()));
    button.click();
"""
MISSING = """
    const saves = app.graph._nodes.filter((node) => /^(Save|Preview)Image$/.test(node.type));
    return saves.filter((node) => !node.imgs?.[0]?.naturalWidth).length;
"""


def clone(target):
    """The files that git has of this tree, as a clone would."""
    listed = subprocess.run(
        ["git", "-C", str(REPO), "ls-files", "-z", "-co", "--exclude-standard"], capture_output=True
    )
    if listed.returncode:
        pytest.skip("not a git checkout, so it is unknown what a clone would have")
    for name in listed.stdout.decode().split("\0"):
        if name and (REPO / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPO / name, target / name)


def test_from_nothing_to_a_picture(browser, tmp_path):
    clone(tmp_path / "custom_nodes" / PACK_NAME)
    started = time.monotonic()
    with Server(tmp_path, link=False) as server:
        ready = time.monotonic()
        assert FIRST in server.get("/api/workflow_templates")[PACK_NAME]
        page = Page(browser, server)
        page.errors()
        page.call(OPEN, PACK_NAME, FIRST)
        opened = time.monotonic()
        assert page.call("return app.graph._nodes.every((n) => LiteGraph.registered_node_types[n.type])")
        page.driver.execute_script(RUN)
        page.wait(lambda: page.call(MISSING) == 0, 120)
        drawn = time.monotonic()
        assert page.errors() == []
        print(f"\nserver {ready - started:.1f} s, page {opened - ready:.1f} s, run {drawn - opened:.1f} s", end="")
        (tmp_path / "page.png").write_bytes(browser.get_screenshot_as_png())
        saved = sorted((tmp_path / "output" / "DreamO").glob("*.png"))
    assert [path.name.rpartition("_0")[0] for path in saved] == ["one_reference", "two_references"]
    assert not [path for path in (tmp_path / "input").rglob("*") if path.is_file()], (
        "nothing is put into the user's folder"
    )
    for path in saved:
        with Image.open(path) as picture:
            # A subject on the plain colour that the prompt asks for: the corner is calm, the picture is not.
            corner = picture.convert("RGB").crop((0, 0, 16, 16)).getextrema()
            whole = picture.convert("RGB").getextrema()
        assert max(high - low for low, high in corner) < 60 < max(high - low for low, high in whole)

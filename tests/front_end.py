"""The real front end in a headless Chromium, for tests that do what a user does."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from comfy_server import Server
from host import PACK_NAME
from screenshot import open_front_end
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import WebDriverWait

REPO = Path(__file__).resolve().parent.parent

needs_browser = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (shutil.which("chromium") and shutil.which("chromedriver")),
        reason="no chromium and chromedriver on the PATH; `apt-get install chromium chromium-driver` makes this run",
    ),
]

# Counts graphs that have finished loading, with the node types that each of them misses.
COUNT_LOADS = """
    window.loads = [];
    app.registerExtension({name: 'tests.loads', afterConfigureGraph(missing) { loads.push(missing); }});
"""

# Each node as the page shows it: title, and its widgets' values and texts.
SHOWN = """
    return app.graph._nodes.map((node) => ({
        id: node.id, title: node.title, known: Boolean(LiteGraph.registered_node_types[node.type]),
        widgets: (node.widgets ?? []).filter((w) => w.type !== 'button' && w.serialize !== false).map((w) => ({
            name: w.name, value: w.value, text: w.element?.tagName === 'TEXTAREA' ? w.element.value : w._displayValue,
            choices: w.type === 'combo' ? w.options?.values : null,
        })),
    }));
"""

LOOK_UPS = ("https://api.comfy.org/", "https://huggingface.co/")

OPEN_DIALOGS = """
    return [...document.querySelectorAll('.p-dialog, [role=dialog], .comfy-modal, .p-toast-message-error')]
        .filter((e) => e.checkVisibility()).map((e) => e.innerText);
"""


class Page:
    """The front end, freshly loaded from `server`."""

    def __init__(self, driver: WebDriver, server: Server, vue_nodes: bool = False):
        self.driver, self.server, self.vue_nodes = driver, server, vue_nodes
        self.reload()
        self.call(f"await app.extensionManager.setting.set('Comfy.VueNodes.Enabled', {str(vue_nodes).lower()})")

    def reload(self) -> None:
        open_front_end(self.driver, self.server.url)
        self.driver.execute_script(COUNT_LOADS)

    def wait(self, condition, seconds: float = 30):
        return WebDriverWait(self.driver, seconds, 0.05, [Exception]).until(lambda _: condition())

    def call(self, script: str, *arguments: Any) -> Any:
        """Run JavaScript that may await, with `args`; returns what it returns."""
        body = (
            "const done = arguments[arguments.length - 1], args = [...arguments].slice(0, -1);"
            f"(async () => {{ {script} }})().then(done, (e) => done('ERROR ' + e.stack))"
        )
        result = self.driver.execute_async_script(body, *arguments)
        assert not (isinstance(result, str) and result.startswith("ERROR ")), result
        return result

    def drop(self, path: Path) -> list[Any]:
        """Drag a file from the desktop onto the empty page and let it go; returns the node types that are missing."""
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        for attempt, seconds in enumerate((10, 30)):
            loads = self.call("app.graph.clear(); return loads.length")
            for kind in ("dragEnter", "dragOver", "drop"):
                self.driver.execute_cdp_cmd("Input.dispatchDragEvent", {"type": kind, "x": 900, "y": 450, "data": data})
            try:
                self.wait(lambda before=loads: self.call("return loads.length") > before, seconds)
                break
            except TimeoutException:
                # Chromium sometimes stops handing drops to a page, and goes on to in a new one.
                if attempt:
                    raise
                self.driver.switch_to.new_window("tab")
                self.reload()
                # What a page says while it loads is not of interest here.
                self.errors()
        return self.call("return loads.at(-1)")

    def save(self) -> dict[str, Any]:
        """The graph as the front end exports it and writes it into pictures."""
        return json.loads(self.call("return JSON.stringify((await app.graphToPrompt()).workflow)"))

    def prompt(self) -> dict[str, Any]:
        """What the front end would send to the server."""
        return self.call("return (await app.graphToPrompt()).output")

    def shown(self) -> dict[int, dict[str, Any]]:
        """Title and widgets of each node, by the node's id."""
        return {node["id"]: node for node in self.call(SHOWN)}

    def dialogs(self) -> list[str]:
        return self.call(OPEN_DIALOGS)

    def errors(self) -> list[str]:
        """Errors of the console since this was last asked.

        The front end's own look-ups (at comfy.org, and of the sizes of files to download) are left out: they fail
        wherever there is no network.
        """
        entries = [entry for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
        messages = [e["message"] for e in entries if not e["message"].startswith(LOOK_UPS)]
        if os.environ.get("DREAMO_FRONT_END"):
            # Not the front end that this back end asks for: it misses addresses of newer ones. Ours name our folder.
            return [message for message in messages if PACK_NAME in message]
        return messages

"""Pictures of the shipped graphs with their thumbnails, and of each node for its help page, in the real front end.

    python3 scripts/host.py exec scripts/screenshot.py [NAME ...] [--to FOLDER]
    python3 scripts/host.py exec scripts/screenshot.py --nodes [NAME ...] [--to FOLDER]

Needs chromium and chromedriver (Debian: `apt-get install chromium chromium-driver`).
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from comfy_server import Server
from example_inputs import write_example_inputs
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait
from thumbnail import save_thumbnail

REPO = Path(__file__).resolve().parent.parent
WORKFLOWS = REPO / "workflows"
HELP = REPO / "web" / "docs"
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars --window-size=2200,1000"
).split()

# Shows the whole graph, boxes too, and nothing but the graph; gives the part of the page that it covers.
SHOW = """
const [workflow, done] = arguments;
app.loadGraphData(workflow).then(() => setTimeout(() => {
    const boxes = [...app.graph._nodes, ...app.graph._groups].map((item) => item.boundingRect ?? item._bounding);
    const left = Math.min(...boxes.map((b) => b[0])), top = Math.min(...boxes.map((b) => b[1]));
    const width = Math.max(...boxes.map((b) => b[0] + b[2])) - left;
    const height = Math.max(...boxes.map((b) => b[1] + b[3])) - top;
    const canvas = app.canvas.canvas, page = canvas.getBoundingClientRect(), margin = 24;
    const scale = Math.min((page.width - 2 * margin) / width, (page.height - 2 * margin) / height);
    app.canvas.ds.scale = scale;
    app.canvas.ds.offset = [margin / scale - left, margin / scale - top];
    app.canvas.setDirty(true, true);
    for (const element of document.body.querySelectorAll('*')) {
        const shown = element.contains(canvas) || ['closest', 'querySelector'].some((f) => element[f]('.dom-widget'));
        if (!shown) element.style.visibility = 'hidden';
    }
    const [right, bottom] = [page.left + width * scale + 2 * margin, page.top + height * scale + 2 * margin];
    setTimeout(() => done([page.left, page.top, right, bottom]), 2500);
}, 1500));
"""

# One node by itself, and where it is on the page: left, top, right, bottom.
SHOW_NODE = """
const [type, done] = arguments;
app.clean();
const node = LiteGraph.createNode(type);
app.graph.add(node);
const image = node.widgets?.find((widget) => widget.name === 'image');
if (image) {
    image.value = 'dreamo_cat.png';
    image.callback?.(image.value);
}
setTimeout(() => {
    if (!image) node.setSize([Math.max(node.size[0], 300), node.computeSize()[1]]);
    const page = app.canvas.canvas.getBoundingClientRect(), top = 130, title = LiteGraph.NODE_TITLE_HEIGHT;
    const [w, h] = [node.size[0], node.size[1] + title];
    const scale = Math.min(1.5, (page.height - top - 20) / h);
    app.canvas.ds.scale = scale;
    app.canvas.ds.offset = [700 / scale - node.pos[0], top / scale - node.pos[1] + title];
    app.canvas.setDirty(true, true);
    const [x, y] = [page.left + 700, page.top + top];
    setTimeout(() => done([x, y, x + w * scale, y + h * scale]), 700);
}, 700);
"""


def browser() -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    for flag in FLAGS:
        options.add_argument(flag)
    # What the console says can be asked for with `get_log("browser")`.
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # Named outright: without it selenium looks for a driver on the network.
    return webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))


def write_settings(base: Path, missing_models: bool = False) -> None:
    """A user who has been here before: no tutorial, no minimap, and told of missing models only if that is wanted."""
    folder = base / "user" / "default"
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False, "Comfy.Graph.CanvasInfo": False}
    settings["Comfy.Workflow.ShowMissingModelsWarning"] = missing_models
    (folder / "comfy.settings.json").write_text(json.dumps(settings))


def open_front_end(driver: webdriver.Chrome, url: str) -> None:
    driver.get(url)
    ready = "return Boolean(window.app?.graph && window.LiteGraph?.registered_node_types?.DreamOApply)"
    WebDriverWait(driver, 120).until(lambda d: d.execute_script(ready))


def screen(driver: webdriver.Chrome) -> Image.Image:
    return Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")


def picture_of_graph(driver: webdriver.Chrome, workflow: dict[str, Any]) -> Image.Image:
    covered = driver.execute_async_script(SHOW, workflow)
    return screen(driver).crop(tuple(round(edge) for edge in covered))


def picture_of_node(driver: webdriver.Chrome, name: str) -> Image.Image:
    left, top, right, bottom = driver.execute_async_script(SHOW_NODE, name)
    return screen(driver).crop((int(left) - 8, int(top) - 8, int(right) + 8, int(bottom) + 8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="workflows or nodes, without ending; all if none is given")
    parser.add_argument("--nodes", action="store_true", help="nodes for the help pages instead of graphs")
    parser.add_argument("--to", type=Path, help="folder for the pictures")
    args = parser.parse_args()
    home, ending = (HELP, "md") if args.nodes else (WORKFLOWS, "json")
    folder = args.to or home
    with tempfile.TemporaryDirectory() as base_folder:
        base = Path(base_folder)
        write_example_inputs(base)
        write_settings(base)
        with Server(base) as server:
            driver = browser()
            try:
                driver.set_script_timeout(60)
                open_front_end(driver, server.url)
                for name in args.names or sorted(path.stem for path in home.glob(f"*.{ending}")):
                    if args.nodes:
                        picture = picture_of_node(driver, name)
                    else:
                        workflow = json.loads((WORKFLOWS / f"{name}.json").read_text())
                        picture = picture_of_graph(driver, workflow)
                        save_thumbnail(workflow, picture, base / "input", folder / f"{name}.jpg")
                    picture.save(folder / f"{name}.webp", quality=80)
                    print(folder / f"{name}.webp")
            finally:
                driver.quit()


if __name__ == "__main__":
    main()

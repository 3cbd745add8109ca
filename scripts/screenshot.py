"""Pictures of the shipped graphs in the real front end, and their thumbnails for the template browser.

    python3 scripts/host.py exec scripts/screenshot.py [NAME ...] [--to FOLDER]

Needs chromium and chromedriver (Debian: `apt-get install chromium chromium-driver`).
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import tempfile
from pathlib import Path

from comfy_server import Server
from example_inputs import write_example_inputs
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait
from thumbnail import save_thumbnail

WORKFLOWS = Path(__file__).resolve().parent.parent / "workflows"
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


def browser() -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    for flag in FLAGS:
        options.add_argument(flag)
    # Named outright: without it selenium looks for a driver on the network.
    return webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))


def write_settings(base: Path) -> None:
    """A user who has been here before: no tutorial, no minimap."""
    folder = base / "user" / "default"
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False, "Comfy.Graph.CanvasInfo": False}
    (folder / "comfy.settings.json").write_text(json.dumps(settings))


def open_front_end(driver: webdriver.Chrome, url: str) -> None:
    driver.get(url)
    ready = "return Boolean(window.app?.graph && window.LiteGraph?.registered_node_types?.DreamOApply)"
    WebDriverWait(driver, 120).until(lambda d: d.execute_script(ready))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="workflows, without .json; all if none is given")
    parser.add_argument("--to", type=Path, default=WORKFLOWS, help="folder for the pictures")
    args = parser.parse_args()
    names = args.names or sorted(path.stem for path in WORKFLOWS.glob("*.json"))
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        write_example_inputs(base)
        write_settings(base)
        with Server(base) as server:
            driver = browser()
            try:
                open_front_end(driver, server.url)
                for name in names:
                    driver.set_script_timeout(60)
                    workflow = json.loads((WORKFLOWS / f"{name}.json").read_text())
                    covered = driver.execute_async_script(SHOW, workflow)
                    picture = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
                    picture = picture.crop(tuple(round(edge) for edge in covered))
                    picture.save(args.to / f"{name}.webp", quality=80)
                    save_thumbnail(workflow, picture, base / "input", args.to / f"{name}.jpg")
                    print(args.to / f"{name}.webp")
            finally:
                driver.quit()


if __name__ == "__main__":
    main()

"""Help pages: one for each node, with a picture of it, served and shown where the front end looks for them."""

import io
import re
import urllib.request

import pytest
from front_end import Page, needs_browser
from PIL import Image
from selenium.webdriver.common.by import By
from support import REPO

PAGES = sorted((REPO / "web" / "docs").glob("*.md"))
PICTURE = re.compile(r"!\[([^\]]+)\]\(([^)\s]+)\)")

every_page = pytest.mark.parametrize("page_file", PAGES, ids=lambda path: path.stem)


def test_every_node_has_a_page_and_every_page_a_node(demo_server):
    ours = {name for name in demo_server.object_info() if name.startswith(("DreamO", "RealCustom"))}
    assert ours == {path.stem for path in PAGES}


@every_page
def test_a_page_shows_its_node(page_file):
    text = page_file.read_text()
    title, picture = text.splitlines()[0], PICTURE.search(text)
    assert title.startswith("# ") and picture, "run scripts/screenshot.py --nodes and link the picture"
    assert picture[1] == title[2:] and picture[2] == f"{page_file.stem}.webp"
    for _, target in PICTURE.findall(text):
        # The front end puts the address of the docs folder in front of a relative one.
        assert (page_file.parent / target).is_file(), f"{target} is missing"
    path = page_file.with_suffix(".webp")
    assert path.stat().st_size <= 25 * 1024
    with Image.open(path) as image:
        assert image.width >= 200 and image.height >= 100
        assert len(image.convert("RGB").getcolors(2**20)) > 50, "nothing is drawn in it"


def test_pages_and_pictures_are_served(demo_server):
    info = demo_server.object_info()
    for path in PAGES:
        # As the front end does: the node's module names the folder.
        folder = f"{demo_server.url}/extensions/{info[path.stem]['python_module'].split('.')[1]}/docs"
        with urllib.request.urlopen(f"{folder}/{path.name}") as answer:
            assert answer.read() == path.read_bytes()
        with urllib.request.urlopen(f"{folder}/{path.stem}.webp") as answer:
            assert Image.open(io.BytesIO(answer.read())).format == "WEBP"


class TestInTheFrontEnd:
    pytestmark = needs_browser

    def test_the_help_panel_shows_the_page_with_its_picture(self, browser, demo_server):
        page = Page(browser, demo_server)
        page.errors()
        page.call(
            """
            app.graph.clear();
            const node = LiteGraph.createNode('DreamOReference');
            app.graph.add(node);
            app.canvas.ds.scale = 1;
            app.canvas.centerOnNode(node);
            app.canvas.selectItems([node]);
            """
        )
        page.wait(lambda: browser.find_element(By.CSS_SELECTOR, "[data-testid='info-button']").click() or True)
        shown = "document.querySelector('.node-help-content')"
        width = page.wait(lambda: page.call(f"return {shown}.querySelector('img').naturalWidth"))
        with Image.open(REPO / "web" / "docs" / "DreamOReference.webp") as picture:
            assert width == picture.width
        text = page.call(f"return {shown}.innerText")
        assert "Prepares one picture as DreamO was trained to see it" in text and "start_percent" in text
        # It asks for a page in the user's language first.
        assert all("/docs/DreamOReference/en.md" in message for message in page.errors())

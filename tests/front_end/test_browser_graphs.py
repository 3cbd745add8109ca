"""Every shared graph in the real front end: dropped onto the page, shown, saved again, and one of them queued."""

import base64
import io
import json

import pytest
from front_end import REPO, Page, needs_browser
from graph import LOADERS, NOT_EXECUTED, widget_values
from PIL import Image

pytestmark = needs_browser

GRAPHS = sorted((REPO / "workflows").glob("*.json"))


def carries_a_graph(path):
    """Whether a picture has a workflow in it, as PNG text or in WebP's EXIF (which is where the front end looks)."""
    with Image.open(path) as picture:
        exif = picture.getexif().values()
        return "workflow" in picture.info or any(str(value).lower().startswith("workflow:") for value in exif)


PICTURES = [
    path
    for folder in ("workflows", "web", "docs")
    for kind in ("*.png", "*.webp")
    for path in sorted((REPO / folder).rglob(kind))
    if carries_a_graph(path)
]


@pytest.fixture(scope="module")
def object_info(demo_server):
    return demo_server.object_info()


@pytest.fixture(scope="module")
def page(browser, demo_server):
    page = Page(browser, demo_server)
    page.errors()
    return page


def as_shown(value):
    return str(value).lower() if isinstance(value, bool) else value


def assert_shows(page, workflow, object_info):
    """Every node is there under its title, and every widget has its saved value and says so."""
    shown = page.shown()
    assert sorted(shown) == sorted(node["id"] for node in workflow["nodes"])
    for node in workflow["nodes"]:
        on_page = shown[node["id"]]
        assert on_page["known"], node["type"]
        if "title" in node:
            assert on_page["title"] == node["title"]
        if node["type"] in NOT_EXECUTED:
            assert [w["value"] for w in on_page["widgets"]] == node["widgets_values"]
            continue
        widgets = {w["name"]: w for w in on_page["widgets"]}
        linked = {i["widget"]["name"] for i in node["inputs"] if "widget" in i and i.get("link") is not None}
        for name, value in widget_values(node, object_info[node["type"]]).items():
            assert widgets[name]["value"] == value, f"{node['type']}.{name}"
            if name in linked:
                # Its value comes from another node, and none is shown.
                continue
            text = widgets[name]["text"]
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                decimals = len(text.partition(".")[2])
                text, value = float(text), round(float(value), decimals)
            assert text == as_shown(value), f"{node['type']}.{name} reads {text}"


# What the front end works out afresh: the order of execution, and the size of a node too small for its widgets.
REWRITTEN = ("order", "size")


def by_id(workflow, leave_out=REWRITTEN):
    """Nodes and links without regard to the order they are listed in."""
    nodes = {n["id"]: {key: value for key, value in n.items() if key not in leave_out} for n in workflow["nodes"]}
    return {**workflow, "nodes": nodes, "links": {link[0]: link for link in workflow["links"]}}


def assert_kept(before, after, where="graph"):
    """All that `before` says stands in `after`, which may say more (such as default colours)."""
    if isinstance(before, dict):
        assert set(before) <= set(after), f"{where} lost {set(before) - set(after)}"
        for key in before:
            assert_kept(before[key], after[key], f"{where}.{key}")
    elif isinstance(before, list):
        assert len(before) == len(after), where
        for i, (one, other) in enumerate(zip(before, after, strict=True)):
            assert_kept(one, other, f"{where}[{i}]")
    else:
        assert before == after, where


def assert_nothing_is_wrong(page, missing):
    assert missing == [] and page.dialogs() == [] and page.errors() == []


def test_the_page_loads_our_scripts_without_an_error(browser, demo_server):
    page = Page(browser, demo_server)
    assert not [message for message in page.errors() if "/extensions/ComfyUI-DreamO-Routed/" in message]


@pytest.mark.parametrize("path", GRAPHS + PICTURES, ids=lambda path: path.name)
def test_a_dropped_graph_opens_shows_its_values_and_is_saved_unchanged(path, page, object_info, tmp_path):
    missing = page.drop(path)
    first = page.save()
    if path.suffix == ".json":
        file = json.loads(path.read_text())
        assert_kept(by_id(file), by_id(first))
    assert_shows(page, first, object_info)
    assert_nothing_is_wrong(page, missing)

    again = tmp_path / path.with_suffix(".json").name
    again.write_text(json.dumps(first))
    assert_nothing_is_wrong(page, page.drop(again))
    assert page.save() == first


# As a user does who has no models: demo models take the loaders' place, and the picture is made small.
USE_DEMO_MODELS = """
    const [loaders, size, seed] = args, demo = LiteGraph.createNode('DreamODemoModels');
    app.graph.add(demo);
    for (const node of [...app.graph._nodes].filter((node) => node.type in loaders)) {
        for (const id of [...(node.outputs[0].links ?? [])]) {
            const link = app.graph.links[id];
            demo.connect(loaders[node.type][1], link.target_id, link.target_slot);
        }
        app.graph.remove(node);
    }
    const set = (type, name, value) =>
        app.graph._nodes.find((n) => n.type === type).widgets.find((w) => w.name === name).value = value;
    for (const side of ['width', 'height']) set('EmptySD3LatentImage', side, size);
    set('KSampler', 'seed', seed);
"""

# The picture that a node shows, drawn again from the page's own element.
PIXELS = """
    const [id, inPage] = args;
    const image = inPage ? document.querySelector(`[data-node-id='${id}'] img`) : app.graph.getNodeById(id).imgs?.[0];
    if (!image?.naturalWidth) return null;
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    canvas.getContext('2d').drawImage(image, 0, 0);
    return canvas.toDataURL('image/png');
"""


@pytest.mark.parametrize("vue_nodes", [False, True], ids=["canvas nodes", "vue nodes"])
def test_a_queued_graph_shows_its_picture_and_the_picture_carries_the_graph(
    vue_nodes, browser, demo_server, object_info, tmp_path
):
    page = Page(browser, demo_server, vue_nodes)
    page.errors()
    assert_nothing_is_wrong(page, page.drop(REPO / "workflows" / "subject.json"))
    # A seed of its own: what the server has made before, it does not make again.
    page.call(USE_DEMO_MODELS, LOADERS, 256, 7 + vue_nodes)
    queued = page.save()
    save_node = next(node for node in queued["nodes"] if node["type"] == "SaveImage")
    page.call("app.canvas.ds.scale = 1; app.canvas.centerOnNode(app.graph.getNodeById(args[0]))", save_node["id"])
    page.call("await app.queuePrompt(0)")

    shown = page.wait(lambda: page.call(PIXELS, save_node["id"], vue_nodes), 60)
    with Image.open(io.BytesIO(base64.b64decode(shown.partition(",")[2]))) as picture:
        assert picture.size == (256, 256)
        assert all(high - low > 10 for low, high in picture.convert("RGB").getextrema()), "the picture is one colour"
    assert page.dialogs() == [] and page.errors() == []
    (tmp_path / "page.png").write_bytes(browser.get_screenshot_as_png())

    file = page.call("return app.nodeOutputs[args[0]].images[0]", save_node["id"])
    saved = demo_server.base / "output" / file["subfolder"] / file["filename"]
    assert carries_a_graph(saved)
    assert_nothing_is_wrong(page, page.drop(saved))
    # Vue nodes are measured in the page, and are placed anew by fractions of a pixel.
    leave_out = (*REWRITTEN, "pos") if vue_nodes else REWRITTEN
    assert_kept(by_id({**queued, "extra": {}}, leave_out), by_id(page.save()))
    assert_shows(page, queued, object_info)

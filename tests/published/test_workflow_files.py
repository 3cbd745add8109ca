"""The shipped graphs as a person opens them: what their note says, how they are laid out, and the table of graphs."""

import json
import re

import pytest
from dreamo_routed.dreamo_core.checkpoint.presets import FILES, PRESETS
from graph import NODE_TITLE
from PIL import Image
from support import REPO

TABLE = (REPO / "docs" / "workflows.md").read_text()
PATHS = sorted((REPO / "workflows").glob("*.json"))


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def workflow(path):
    return json.loads(path.read_text())


def model_files(workflow):
    """Every model file that the graph's nodes read."""
    for node in workflow["nodes"]:
        if node["type"] == "DreamOModelStack":
            preset, turbo = node["widgets_values"][:2]
            yield from (FILES[file].name for file in PRESETS[preset])
            if turbo:
                yield FILES["turbo"].name
        elif node["type"] != "MarkdownNote":
            names = [value for value in node["widgets_values"] if isinstance(value, str)]
            yield from (name for name in names if name.endswith((".safetensors", ".pth")))


def test_the_note_says_where_each_model_goes_and_where_it_comes_from(workflow):
    (note,) = [node["widgets_values"][0] for node in workflow["nodes"] if node["type"] == "MarkdownNote"]
    if not set(model_files(workflow)):
        assert "nothing has to be downloaded" in note
        return
    sections = dict(re.findall(r"\*\*models/(\w+)\*\*[^\n]*\n\n((?:- .*\n?)+)", note))
    lines = [line for section in sections.values() for line in section.splitlines()]
    assert {line.split()[1] for line in lines} == set(model_files(workflow))
    for line in lines:
        assert re.search(r"from \[([\w.-]+/[\w.-]+)\]\(https://huggingface\.co/\1\)", line), line
    if "checkpoints" in sections:
        assert "sd_xl" in sections["checkpoints"] and "RealCustom" in sections["realcustom"]
        return
    base, vae = ("flux-2", "flux2-vae") if "flux-2" in sections["diffusion_models"] else ("flux1-dev", "ae.safetensors")
    assert base in sections["diffusion_models"] and vae in sections["vae"]


def box(node):
    """A node with its title: left, top, right, bottom."""
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - NODE_TITLE, x + width, y + height


def apart(one, other):
    return one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


def test_nodes_and_boxes_do_not_overlap(workflow):
    nodes = [box(node) for node in workflow["nodes"]]
    groups = [(x, y, x + w, y + h) for x, y, w, h in (group["bounding"] for group in workflow["groups"])]
    assert groups
    for boxes in (nodes, groups):
        assert all(apart(one, other) for n, one in enumerate(boxes) for other in boxes[:n])
    for node in nodes:
        within = [g for g in groups if g[0] <= node[0] and g[1] <= node[1] and node[2] <= g[2] and node[3] <= g[3]]
        assert within or all(apart(node, group) for group in groups)


def test_the_table_has_a_row_with_a_picture(path):
    (row,) = [line for line in TABLE.splitlines() if line.startswith(f"| [`{path.name}`](../workflows/{path.name}) ")]
    assert f'<img src="../workflows/{path.stem}.webp"' in row
    with Image.open(path.with_suffix(".webp")) as picture:
        assert picture.format == "WEBP" and picture.width >= 1000


def test_the_table_has_no_row_without_a_file():
    assert set(re.findall(r"\| \[`(\w+)\.json`\]\(../workflows/", TABLE)) == {path.stem for path in PATHS}
    assert {path.stem for path in (REPO / "workflows").iterdir()} == {path.stem for path in PATHS}

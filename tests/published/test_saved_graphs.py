"""Graphs that earlier versions saved keep opening: in the front end, as prompts, and on the server.

`fixtures/saved/<version>` holds them, as the front end of that time saved them (or, without a prompt beside it, as it
was shipped), and `signatures.json` what the last released version saves. `scripts/freeze_saved_graphs.py` writes both.

0.1.0.dev1: Load DreamO and DreamO Demo Models with one widget, DreamO Reference with five. 0.1.0.dev2: DreamO Reference
with eight widgets and its second output unnamed, Load DreamO as a LoRA loader, Demo Models still with one widget.
"""

import json

import pytest
from freeze_saved_graphs import signatures
from front_end import Page, needs_browser
from graph import NOT_EXECUTED, inputs_of, is_widget, to_prompt, use_demo_models, widget_values
from support import REPO

SAVED = REPO / "tests" / "fixtures" / "saved"
GRAPHS = sorted(path for path in SAVED.glob("*/*.json") if not path.name.endswith(".prompt.json"))
SENT = [path for path in GRAPHS if path.with_suffix(".prompt.json").exists()]
FROZEN = json.loads((SAVED / "signatures.json").read_text())

every_graph = pytest.mark.parametrize("path", GRAPHS, ids=lambda path: f"{path.parent.name}/{path.stem}")
every_prompt = pytest.mark.parametrize("path", SENT, ids=lambda path: f"{path.parent.name}/{path.stem}")


@pytest.fixture(scope="module")
def object_info(demo_server):
    return demo_server.object_info()


def read(path):
    return json.loads(path.read_text())


def assert_fits(value, name, kind, options):
    """The value is one that the server takes for this input."""
    choices = kind if isinstance(kind, list) else options.get("options")
    if choices is not None and "_name" not in name:
        assert value in choices, f"{name} is {value!r}"
    elif kind == "INT":
        assert isinstance(value, int) and not isinstance(value, bool), f"{name} is {value!r}"
    elif kind == "FLOAT":
        assert isinstance(value, (int, float)) and not isinstance(value, bool), f"{name} is {value!r}"
    elif kind == "BOOLEAN":
        assert isinstance(value, bool), f"{name} is {value!r}"
    elif kind == "STRING":
        assert isinstance(value, str), f"{name} is {value!r}"
    if kind in ("INT", "FLOAT"):
        assert options.get("min", value) <= value <= options.get("max", value), f"{name} is {value!r}"


def assert_sends(prompt, sent, object_info):
    """The prompt says all that was sent then; what has been added since stands for how it was then."""
    assert prompt.keys() == sent.keys()
    for node, before in sent.items():
        now = prompt[node]
        assert now["class_type"] == before["class_type"]
        for name, _, options in inputs_of(object_info[now["class_type"]]):
            if name in before["inputs"]:
                assert now["inputs"][name] == before["inputs"][name], f"{now['class_type']}.{name}"
            elif name in now["inputs"]:
                assert now["inputs"][name] == options.get("before", options["default"]), f"{now['class_type']}.{name}"


@every_graph
def test_every_widget_lands_on_its_input(path, object_info):
    for node in read(path)["nodes"]:
        if node["type"] not in NOT_EXECUTED:
            info = object_info[node["type"]]
            values = widget_values(node, info)
            for name, kind, options in inputs_of(info):
                if is_widget(kind, options):
                    assert_fits(values[name], f"{node['type']}.{name}", kind, options)


@every_prompt
def test_the_prompt_is_the_one_that_was_sent_then(path, object_info):
    assert_sends(to_prompt(read(path), object_info), read(path.with_suffix(".prompt.json")), object_info)


@every_graph
def test_it_still_runs(path, demo_server, object_info):
    prompt = use_demo_models(to_prompt(read(path), object_info))
    for node in prompt.values():
        if node["class_type"] == "EmptySD3LatentImage":
            # Small: a megapixel takes most of a minute on a CPU.
            node["inputs"] |= {side: min(node["inputs"][side], 256) for side in ("width", "height")}
        if node["class_type"] == "DreamORoutingWords":
            # That graph named words of a prompt it had not encoded, and got other tokens; now it is told so.
            node["inputs"]["text"] = "a cat from [ref#1] and a cup from [ref#2]"
    outputs = demo_server.run(prompt)
    assert demo_server.image_files(outputs)


@pytest.fixture(scope="module")
def page(browser, demo_server):
    page = Page(browser, demo_server)
    page.errors()
    return page


class TestInTheFrontEnd:
    pytestmark = needs_browser

    @every_graph
    def test_it_opens(self, path, page, object_info):
        assert page.drop(path) == [] and page.dialogs() == [] and page.errors() == []
        saved = {node["id"]: node for node in page.save()["nodes"]}
        for node in read(path)["nodes"]:
            now = saved.pop(node["id"])
            before = node.get("widgets_values", [])
            assert now["type"] == node["type"] and now.get("widgets_values", [])[: len(before)] == before
        assert not saved
        if path in SENT:
            assert_sends(page.prompt(), read(path.with_suffix(".prompt.json")), object_info)


def test_every_node_of_the_released_version_is_in_its_graph():
    version = FROZEN["version"]
    assert f"## {version}" in (REPO / "CHANGELOG.md").read_text()
    in_graphs = {node["type"] for path in GRAPHS if path.parent.name == version for node in read(path)["nodes"]}
    assert set(FROZEN["nodes"]) <= in_graphs


def incompatibilities(before, now):
    """Why a graph saved with the node `before` would not open with the node `now`."""
    found = []
    for place, old in enumerate(before["widgets"]):
        if place >= len(now["widgets"]) or now["widgets"][place]["name"] != old["name"]:
            found.append(f"widget {old['name']} is no longer at place {place}: widgets may only be added at the end")
            continue
        new = now["widgets"][place]
        if new["type"] != old["type"]:
            found.append(f"widget {old['name']} was {old['type']} and is {new['type']}")
        if lost := set(old.get("choices", [])) - set(new.get("choices", old.get("choices", []))):
            found.append(f"widget {old['name']} has lost {sorted(lost)}")
        if new.get("min", old.get("min", 0)) > old.get("min", 0) or new.get("max", 0) < old.get("max", 0):
            found.append(f"widget {old['name']} has a smaller range")
    for name, old in before["sockets"].items():
        new = now["sockets"].get(name)
        if new is None or new["type"] != old["type"] or (new["required"] and not old["required"]):
            found.append(f"input {name} was {old} and is {new}")
    for name, new in now["sockets"].items():
        if name not in before["sockets"] and new["required"]:
            found.append(f"input {name} is new and required")
    if now["outputs"][: len(before["outputs"])] != before["outputs"]:
        found.append(f"outputs were {before['outputs']} and are {now['outputs']}")
    return found


def test_nodes_change_only_in_ways_that_saved_graphs_survive(object_info):
    now = signatures(object_info)
    assert set(FROZEN["nodes"]) <= set(now), "a released node is gone"
    found = {node: incompatibilities(before, now[node]) for node, before in FROZEN["nodes"].items()}
    assert not any(found.values()), {node: reasons for node, reasons in found.items() if reasons}


WIDGETS = [
    {"name": "task", "type": "COMBO", "choices": ["a", "b"]},
    {"name": "size", "type": "INT", "min": 1, "max": 9},
]
NODE = {"widgets": WIDGETS, "sockets": {"image": {"type": "IMAGE", "required": False}}, "outputs": ["MASK"]}


@pytest.mark.parametrize(
    "change, reason",
    [
        ({}, None),
        ({"widgets": [*WIDGETS, {"name": "more", "type": "INT"}]}, None),
        ({"widgets": [{**WIDGETS[0], "choices": ["a", "b", "c"]}, {**WIDGETS[1], "min": 0, "max": 99}]}, None),
        ({"outputs": ["MASK", "IMAGE"]}, None),
        ({"widgets": WIDGETS[::-1]}, "no longer at place 0"),
        ({"widgets": WIDGETS[:1]}, "size is no longer at place 1"),
        ({"widgets": [{"name": "more", "type": "INT"}, *WIDGETS]}, "no longer at place 0"),
        ({"widgets": [{**WIDGETS[0], "choices": ["a"]}, WIDGETS[1]]}, "has lost"),
        ({"widgets": [WIDGETS[0], {**WIDGETS[1], "max": 8}]}, "smaller range"),
        ({"widgets": [WIDGETS[0], {**WIDGETS[1], "type": "FLOAT"}]}, "was INT and is FLOAT"),
        ({"sockets": {}}, "input image"),
        ({"sockets": {**NODE["sockets"], "vae": {"type": "VAE", "required": True}}}, "new and required"),
        ({"outputs": ["IMAGE", "MASK"]}, "outputs were"),
    ],
)
def test_the_comparison_sees_what_breaks_graphs(change, reason):
    found = incompatibilities(NODE, {**NODE, **change})
    assert found == [] if reason is None else reason in found[0]

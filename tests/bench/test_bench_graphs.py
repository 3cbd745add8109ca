"""Any graph with named slots: found, filled, and refused with a reason."""

import json
import re
from pathlib import Path

import pytest
from boot import REPO

from dreamo_core.bench.case import Case, Reference
from dreamo_core.bench.graph import SavedGraph, find_graph, find_slots, parse_value


@pytest.fixture(scope="module")
def object_info(demo_server):
    return demo_server.object_info()


def case(count, task="subject"):
    references = tuple(Reference(Path(f"/data/{n}.png"), task) for n in range(count))
    return Case("id", "a dog from [ref#1]", "a dog", references, "group")


def filled(path, object_info, count, **options):
    return SavedGraph(path, **options).prompt(object_info, case(count), [f"up/{n}.png" for n in range(count)], 77)


def test_a_shipped_graph_needs_no_titles(object_info):
    prompt, picture = filled(REPO / "workflows" / "routed_references.json", object_info, 2)
    by_type = {}
    for node, content in prompt.items():
        by_type.setdefault(content["class_type"], []).append((node, content["inputs"]))
    assert [inputs["image"] for _, inputs in by_type["LoadImage"]] == ["up/0.png", "up/1.png"]
    ((_, text),), ((_, sampler),) = by_type["DreamOTextEncode"], by_type["DreamORoutedSampler"]
    assert text["prompt"] == "a dog from [ref#1]" and sampler["seed"] == 77
    assert prompt[picture]["class_type"] == "SaveImage"
    plain, _ = filled(REPO / "workflows" / "routed_references.json", object_info, 2, placeholders=False)
    assert "a dog" in [content["inputs"].get("prompt") for content in plain.values()]


def test_references_are_in_the_order_of_the_chain_and_get_the_cases_task(object_info):
    graph = SavedGraph(REPO / "workflows" / "three_references.json")
    prompt, _ = graph.prompt(object_info, case(3, "style"), ["a.png", "b.png", "c.png"], 1)
    (last,) = [c["inputs"]["references"][0] for c in prompt.values() if c["class_type"] == "DreamOApply"]
    chain = []
    while last:
        chain.insert(0, prompt[prompt[last]["inputs"]["image"][0]]["inputs"]["image"])
        assert prompt[last]["inputs"]["task"] == "style"
        last = prompt[last]["inputs"].get("references", [None])[0]
    assert chain == ["a.png", "b.png", "c.png"]


PLAIN = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "x.png"}, "_meta": {"title": "slot: reference 2"}},
    "2": {"class_type": "LoadImage", "inputs": {"image": "y.png"}, "_meta": {"title": "Slot: Reference 1"}},
    "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "one"}, "_meta": {"title": "slot: prompt"}},
    "4": {"class_type": "CLIPTextEncode", "inputs": {"text": "two"}},
    "5": {"class_type": "RandomNoise", "inputs": {"noise_seed": 1}, "_meta": {"title": "slot: seed"}},
    "6": {"class_type": "Another", "inputs": {"seed": 1, "strength": 0.3}},
    "7": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}, "_meta": {"title": "slot: picture"}},
    "8": {"class_type": "SaveImage", "inputs": {"images": ["2", 0]}},
}


def write(path, **changes):
    path.write_text(json.dumps({**PLAIN, **changes}))
    return path


def test_titles_name_the_slots_of_other_packs_graphs(tmp_path):
    path = write(tmp_path / "graph.json")
    prompt, picture = filled(path, {}, 2, changes={"6.strength": 0.8})
    assert (prompt["2"]["inputs"]["image"], prompt["1"]["inputs"]["image"]) == ("up/0.png", "up/1.png")
    assert (prompt["3"]["inputs"]["text"], prompt["4"]["inputs"]["text"]) == ("a dog from [ref#1]", "two")
    assert (prompt["5"]["inputs"]["noise_seed"], prompt["6"]["inputs"]) == (77, {"seed": 1, "strength": 0.8})
    assert picture == "7"
    marks = {SavedGraph(path, {"6.strength": value}).fingerprint for value in (0.8, 0.9, 0.8)}
    assert len(marks) == 2


@pytest.mark.parametrize(
    ("changes", "count", "said"),
    [
        ({}, 3, "has 2 slots for references, id has 3"),
        ({"3": PLAIN["4"]}, 2, "one node for prompt.*Candidates: 3 .CLIPTextEncode., 4"),
        ({"7": PLAIN["8"]}, 2, "one node for picture.*Candidates: 7 .SaveImage., 8"),
        ({"5": PLAIN["4"], "6": PLAIN["4"]}, 2, "no node with a seed"),
        ({"4": {**PLAIN["4"], "_meta": {"title": "slot: promt"}}}, 2, "Unknown slots .'promt'."),
    ],
)
def test_what_cannot_be_filled_is_one_clear_error(tmp_path, changes, count, said):
    with pytest.raises(ValueError, match=said):
        filled(write(tmp_path / "graph.json", **changes), {}, count)


def test_wrong_files_and_changes_are_named(tmp_path):
    (tmp_path / "graph.json").write_text("{")
    with pytest.raises(ValueError, match="graph.json is no graph"):
        SavedGraph(tmp_path / "graph.json")
    with pytest.raises(ValueError, match=re.escape("has no 6.power; give NODE.INPUT=VALUE")):
        filled(write(tmp_path / "graph.json"), {}, 2, changes={"6.power": 1})
    with pytest.raises(ValueError, match="There is no graph 'nothing'; give a .json file"):
        find_graph("nothing", {}, True)
    assert [parse_value(text) for text in ("0.5", "true", "euler", "3")] == [0.5, True, "euler", 3]


def test_an_empty_text_is_not_taken_for_the_prompt():
    prompt = {**PLAIN, "3": {**PLAIN["3"], "inputs": {"text": ""}}}
    assert find_slots(prompt, {"7": "slot: picture"}).prompts == (("4", "text"),)

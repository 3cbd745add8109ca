"""Graphs of the official DreamO pack: converted they open and run; hosts that replace nodes do it by themselves."""

import copy
import json
import subprocess
import sys

import pytest
import torch
from comfy_server import PromptError
from dreamo_routed.dreamo_core.graphs.official import REPLACEMENTS, convert, host_replacements
from dreamo_routed.nodes.official import DreamOOfficialApply, DreamOOfficialReference
from front_end import Page, needs_browser
from graph import to_prompt, use_demo_models
from graphs.official_graphs import OFFICIAL, V1_1_LORAS, V1_LORAS
from PIL import Image
from safetensors.torch import save_file
from support import REPO, apply_dreamo, make_conditioning, make_model, sample, small_flux

every_graph = pytest.mark.parametrize("name", OFFICIAL)


@pytest.fixture(scope="module")
def server(demo_server):
    """With the files that the official graphs name."""
    loras = {name for name, _ in (*V1_LORAS, *V1_1_LORAS)}
    for name in sorted(loras - {path.name for path in (demo_server.base / "models").rglob("*.safetensors")}):
        part = "diffusion_model.double_blocks.0.img_attn.proj.lora_"
        lora = {f"{part}down.weight": torch.full((2, 64), 0.01), f"{part}up.weight": torch.full((64, 2), 0.01)}
        save_file(lora, demo_server.base / "models" / "loras" / name)
    for name in ("dreamo_sft_lora", "dreamo_dpo_lora"):
        source, target = (demo_server.base / "models" / kind / f"{name}.safetensors" for kind in ("dreamo", "loras"))
        if not target.exists():
            target.write_bytes(source.read_bytes())
    with Image.open(demo_server.base / "input" / "dreamo_astronaut.png") as picture:
        for name in ("sigir_person.png", "man1.png", "hinton.jpeg"):
            picture.convert("RGB").save(demo_server.base / "input" / name)
    return demo_server


def small(prompt):
    """The prompt with a small picture."""
    for node in prompt.values():
        if node["class_type"] == "EmptySD3LatentImage":
            node["inputs"] |= {"width": 256, "height": 256}
    return prompt


@every_graph
def test_a_converted_graph_runs(name, server):
    before = copy.deepcopy(OFFICIAL[name])
    graph, count = convert(OFFICIAL[name])
    assert OFFICIAL[name] == before and count == 2 + len([n for n in graph["nodes"] if n["type"] == "LoadImage"])
    prompt = small(use_demo_models(to_prompt(graph, server.object_info())))
    encoders = [n["inputs"] for n in prompt.values() if n["class_type"] == "DreamOOfficialReference"]
    assert all((n["resolution"], n["ref_task"]) == (512, "ip") and len(n) == 4 for n in encoders)
    (applied,) = [n["inputs"] for n in prompt.values() if n["class_type"] == "DreamOOfficialApply"]
    assert sorted(applied) == ["model", *(f"ref{i}" for i in range(1, len(encoders) + 1))]
    assert server.image_files(server.run(prompt))


@every_graph
def test_links_hold_together(name):
    graph, _ = convert(OFFICIAL[name])
    nodes = {node["id"]: node for node in graph["nodes"]}
    for id_, source, output, target, place, kind in graph["links"]:
        assert id_ in nodes[source]["outputs"][output]["links"]
        slot = nodes[target]["inputs"][place]
        assert slot["link"] == id_ and slot["type"] == kind
    held = [slot["link"] for node in graph["nodes"] for slot in node["inputs"] if slot["link"] is not None]
    assert sorted(held) == [link[0] for link in graph["links"]]


class TestInTheFrontEnd:
    pytestmark = needs_browser

    @every_graph
    def test_a_converted_graph_opens(self, name, browser, server, tmp_path):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(convert(OFFICIAL[name])[0]))
        page = Page(browser, server)
        page.errors()
        assert page.drop(path) == [] and page.dialogs() == [] and page.errors() == []
        sent = page.prompt()
        expected = to_prompt(json.loads(path.read_text()), server.object_info())
        # The front end leaves out nodes that nothing asks for.
        for node in sent:
            assert sent[node]["inputs"] == expected[node]["inputs"]


def test_a_host_that_replaces_nodes_runs_the_graph_as_it_is(server):
    try:
        known = server.get("/node_replacements")
    except PromptError:
        pytest.skip("this host does not replace nodes")
    assert {r.old: r.new for r in REPLACEMENTS} == {r.old: known[r.old][0]["new_node_id"] for r in REPLACEMENTS}
    assert known["DreamORefEncode"][0]["old_widget_ids"] == ["resolution", "ref_task"]
    prompt, _ = convert(OFFICIAL["dreamo_comfyui_v1.1"])
    prompt = small(use_demo_models(to_prompt(prompt, server.object_info())))
    old = {r.new: r.old for r in REPLACEMENTS}
    for number, node in prompt.items():
        node["class_type"] = old.get(node["class_type"], node["class_type"])
        node["_meta"] = {"title": number}
    (processor,) = [number for number, node in prompt.items() if node["class_type"] == "DreamOProcessorLoader"]
    for node in prompt.values():
        if node["class_type"] == "DreamORefEncode":
            node["inputs"]["dreamo_processor"] = [processor, 0]
        elif node["class_type"] == "ApplyDreamO":
            # The host looks up every input that the table names, connected or not; its front end does not.
            node["inputs"] |= {name: list(node["inputs"]["ref1"]) for name in ("ref2", "ref3")}
    assert server.image_files(server.run(prompt))


def test_the_table_names_inputs_that_our_nodes_have(server):
    info = server.object_info()
    for arguments in host_replacements():
        ours = info[arguments["new_node_id"]]["input"]
        names = {*ours.get("required", {}), *ours.get("optional", {})}
        assert {entry["new_id"] for entry in arguments["input_mapping"]} == names


def test_the_command_writes_beside_or_elsewhere_and_names_what_it_cannot_read(tmp_path):
    run = lambda *arguments: subprocess.run(  # noqa: E731
        [sys.executable, "-m", "dreamo_core.graphs", "convert", *map(str, arguments)], cwd=REPO, text=True,
        capture_output=True, timeout=60,
    )  # fmt: skip
    source = tmp_path / "mine.json"
    source.write_text(json.dumps(OFFICIAL["dreamo_comfyui"]))
    assert run(source).returncode == 0 and run(source, "--to", tmp_path / "new").returncode == 0
    results = [json.loads((folder / "mine_routed.json").read_text()) for folder in (tmp_path, tmp_path / "new")]
    assert results[0] == results[1] == convert(OFFICIAL["dreamo_comfyui"])[0]
    assert json.loads(source.read_text()) == OFFICIAL["dreamo_comfyui"]
    for text, message in (
        ("{", "cannot be read as JSON"),
        ('{"1": {"class_type": "KSampler"}}', "no graph as the front end saves it"),
        (json.dumps({"nodes": [], "links": []}), "has none of the nodes DreamOProcessorLoader"),
        (json.dumps({"nodes": [{"type": "DreamORefEncode", "widgets_values": [1, 2, 3]}], "links": []}), "3 saved"),
    ):
        source.write_text(text)
        result = run(source)
        assert result.returncode == 1 and message in result.stderr and "Traceback" not in result.stderr


@pytest.fixture
def released_rows(tmp_path, monkeypatch):
    """The demo rows as embedding.safetensors, where the official node looks for them."""
    from dreamo_routed.dreamo_core.host import official

    model = make_model()
    tables = {"task": model.embeddings.task, "idx": model.embeddings.index}
    save_file({f"dreamo_{k}_embedding.weight": v for k, v in tables.items()}, tmp_path / "embedding.safetensors")
    found = {"embedding": tmp_path / "embedding.safetensors", "dreamo": None}
    monkeypatch.setattr(official, "find_released", lambda file: found[file.id])
    return found


def test_references_on_the_model_are_those_of_dreamo_apply(released_rows):
    """The same latent as with our own nodes, for positive prompts alone, and nothing is left on the model."""
    from dreamo_routed.minidreamo.host import small_models

    flux, vae = small_flux(depth=1, depth_single_blocks=1), small_models.small_vae(0)
    pictures = [torch.rand(1, 512, 512, 3, generator=torch.Generator().manual_seed(n)) for n in (1, 2)]
    encoded = [DreamOOfficialReference.execute(p, vae, 512, "style").result[0] for p in pictures]
    references = tuple(latent["dreamo_reference"] for latent in encoded)
    (model,) = DreamOOfficialApply.execute(flux, *encoded).result
    for cfg in (1.0, 2.5):
        ours = sample(*apply_dreamo(flux, make_conditioning(), references, make_model()), cfg=cfg)
        assert torch.equal(sample(model, make_conditioning(), cfg=cfg), ours)
        assert torch.equal(sample(model, make_conditioning(), cfg=cfg), ours)
    plain = sample(flux, make_conditioning())
    assert not torch.equal(sample(model, make_conditioning()), plain)
    assert torch.equal(sample(flux, make_conditioning()), plain)


def test_what_official_graphs_get_wrong_is_said(released_rows):
    flux = small_flux(depth=1, depth_single_blocks=1)
    with pytest.raises(ValueError, match="ref1 is a latent of another node"):
        DreamOOfficialApply.execute(flux, {"samples": torch.zeros(1, 16, 8, 8)})
    released_rows["embedding"] = None
    with pytest.raises(ValueError, match="put embedding.safetensors .* into models/dreamo"):
        DreamOOfficialApply.execute(flux, {"samples": torch.zeros(1, 16, 8, 8), "dreamo_reference": None})

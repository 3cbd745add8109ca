"""Search words of the nodes: given where the host's schemas take them, left out where they do not."""

import asyncio
import dataclasses

import pytest
from comfy_api.latest import io
from dreamo_routed.nodes import comfy_entrypoint
from dreamo_routed.nodes.aliases import ALIASES

NODES = asyncio.run(asyncio.run(comfy_entrypoint()).get_node_list())
NODE_IDS = {node.define_schema().node_id for node in NODES}


@pytest.fixture
def newer_host(monkeypatch):
    """A host whose schema has the field, as newer ones do."""
    if "search_aliases" in {field.name for field in dataclasses.fields(io.Schema)}:
        return

    @dataclasses.dataclass
    class Schema(io.Schema):
        search_aliases: list[str] = dataclasses.field(default_factory=list)

    monkeypatch.setattr(io, "Schema", Schema)


def test_every_node_has_search_words_on_a_host_that_knows_them(newer_host):
    assert set(ALIASES) == NODE_IDS
    for node in NODES:
        words = node.define_schema().search_aliases
        assert len(words) >= 3 and len(set(words)) == len(words)
        for word in words:
            assert word == word.strip().lower() and len(word) > 2
            assert word != node.define_schema().display_name.lower()


@pytest.mark.parametrize(
    "words, node_id",
    [
        ("ipadapter", "DreamOReference"),
        ("face id", "DreamOReference"),
        ("reference image", "DreamOReference"),
        ("style transfer", "DreamOReference"),
        ("virtual try-on", "DreamOReference"),
        ("apply ipadapter", "DreamOApply"),
        ("regional prompt", "DreamORegion"),
        ("load lora", "DreamOLora"),
    ],
)
def test_what_users_of_other_packs_type_finds_a_node(newer_host, words, node_id):
    (node,) = [node for node in NODES if node.define_schema().node_id == node_id]
    assert words in node.define_schema().search_aliases


def test_a_host_without_the_field_gets_no_unknown_keyword(monkeypatch):
    older = dataclasses.make_dataclass(
        "Schema", [(f.name, f.type, f) for f in dataclasses.fields(io.Schema) if f.name != "search_aliases"]
    )
    monkeypatch.setattr(io, "Schema", older)
    for node in NODES:
        assert not hasattr(node.define_schema(), "search_aliases")

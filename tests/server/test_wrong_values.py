"""Values that no widget gives but a prompt can: each is one clear error at its node, on every host."""

import asyncio
import math

import pytest
import torch
from comfy_api.latest import io
from dreamo_routed.dreamo_core.checkpoint.lora.layer import Lora
from dreamo_routed.dreamo_core.host import folders
from dreamo_routed.dreamo_core.host.lora import with_loras
from dreamo_routed.dreamo_core.host.text_encoder import encode_prompt, with_placeholders
from dreamo_routed.dreamo_core.pictures import load
from dreamo_routed.dreamo_core.reuse.policy import ReusePolicy
from dreamo_routed.minidreamo.host import small_models
from dreamo_routed.nodes import comfy_entrypoint
from dreamo_routed.nodes.load_picture import DreamOLoadPicture
from dreamo_routed.nodes.speed import DreamOSpeed
from PIL import Image
from support import make_chain, make_conditioning, make_embeddings, make_model, make_reference, small_flux

NODES = asyncio.run(asyncio.run(comfy_entrypoint()).get_node_list())
NAN, INF = math.nan, math.inf


def sockets():
    return {
        "MODEL": small_flux(depth=0, depth_single_blocks=1), "CLIP": object(), "VAE": object(),
        "IMAGE": torch.rand(1, 32, 32, 3), "MASK": torch.ones(1, 32, 32), "CONDITIONING": make_conditioning(),
        "DREAMO_MODEL": make_model(), "DREAMO_REFERENCES": make_chain(1), "DREAMO_ROUTING_MAPS": object(),
        "LATENT": {"samples": torch.zeros(1, 16, 8, 8)},
    }  # fmt: skip


def widgets(kind):
    for node in NODES:
        schema = node.define_schema()
        for declared in schema.inputs:
            if isinstance(declared, kind):
                yield pytest.param(node, declared, id=f"{schema.node_id}.{declared.id}")


def call(node, name, value):
    """The node with its defaults, and one value that is wrong."""
    given, fed = {}, sockets()
    for declared in node.define_schema().inputs:
        kind = declared.get_io_type()
        if kind in fed:
            given[declared.id] = fed[kind]
        elif not declared.optional:
            default = getattr(declared, "default", None)
            # A type of another node's, or a widget that has no default.
            stand_in = "a" if isinstance(declared, io.WidgetInput) else object()
            given[declared.id] = default if default is not None else stand_in
    return node.execute(**{**given, name: value})


# Files come and go, and samplers are the host's.
COMBOS = [
    case for case in widgets(io.Combo.Input)
    if not case.values[1].id.endswith("_name") and case.values[1].id not in ("scheduler", "image")
]  # fmt: skip


@pytest.mark.parametrize("node, declared", COMBOS)
@pytest.mark.parametrize("value", ["nonsense", "x" * 9000, 3, ["subject"]], ids=["text", "long", "number", "list"])
def test_an_unknown_choice_is_named_with_those_there_are(node, declared, value):
    with pytest.raises(ValueError) as caught:
        call(node, declared.id, value)
    message = str(caught.value)
    assert f"{node.define_schema().display_name}'s {declared.id} must be one of" in message
    assert all(str(option) in message for option in declared.options) and len(message) < 1000


@pytest.mark.parametrize("node, declared", widgets(io.Float.Input))
@pytest.mark.parametrize("value", [NAN, INF, -INF, "0.5"])
def test_a_number_is_finite(node, declared, value):
    with pytest.raises(ValueError, match=f"{declared.id} must be a finite number, got"):
        call(node, declared.id, value)


def links():
    for node in NODES:
        schema = node.define_schema()
        for declared in schema.inputs:
            if not isinstance(declared, io.WidgetInput):
                yield pytest.param(node, declared.id, id=f"{schema.node_id}.{declared.id}")


@pytest.mark.parametrize("node, name", links())
@pytest.mark.parametrize("value", ["a picture", 5, "x" * 9000], ids=["text", "number", "long"])
def test_text_or_a_number_where_a_link_belongs(node, name, value):
    with pytest.raises(ValueError, match=rf"{name} needs [A-Z_]+ from another node, got .*; connect one\.") as caught:
        call(node, name, value)
    assert len(str(caught.value)) < 300


def test_right_values_pass():
    patched, _ = DreamOSpeed.execute(small_flux(depth=0, depth_single_blocks=1), "balanced", False).result
    assert patched is not None


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: make_reference(strength=NAN), "strength a number of at least 0, got 'subject' and nan"),
        (lambda: make_reference(strength=-0.5), "strength a number of at least 0"),
        (lambda: make_reference(start_percent=NAN), "both lie in 0 to 1, got nan"),
        (lambda: ReusePolicy(refresh="sigma distance", sigma_distance=NAN), "sigma_distance must lie in 0 to 1"),
        (lambda: ReusePolicy(drift=NAN), "drift be a number of at least 0"),
        (lambda: ReusePolicy(drift=INF), "drift be a number of at least 0"),
    ],
)
def test_the_core_checks_too(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("strength", [NAN, INF])
def test_a_loras_strength_is_finite(strength):
    model = small_flux()
    with pytest.raises(ValueError, match="strength of style.safetensors must be a finite number"):
        with_loras(model, [(Lora("style.safetensors", {}), strength)])
    assert not model.patches


@pytest.fixture(scope="module")
def clip():
    return small_models.small_text_encoders()


@pytest.mark.parametrize("prompt", ["a (cat:nan)", "a (cat:inf) from [ref#1]", "(a cat from [ref#1]:-inf)"])
def test_a_weight_in_the_prompt_is_finite(clip, prompt):
    message = r"weight (nan|inf|-inf); write a number, such as \(word:1.2\)"
    with pytest.raises(ValueError, match=message):
        encode_prompt(clip, make_embeddings(), "dreamo.safetensors", prompt, 3.5)
    with pytest.raises(ValueError, match=message):
        with_placeholders(clip, make_embeddings(), "dreamo.safetensors").tokenize(prompt)


@pytest.mark.parametrize("guidance", [NAN, INF])
def test_the_guidance_is_finite(clip, guidance):
    with pytest.raises(ValueError, match="guidance must be a finite number"):
        encode_prompt(clip, make_embeddings(), "dreamo.safetensors", "a cat", guidance)


@pytest.mark.parametrize(
    "name", [None, 3, ["a.png"], "x" * 300 + ".png", "x" * 9000, "a/" * 4500 + "b.png", "nul\0.png"]
)
def test_names_that_are_none(name):
    with pytest.raises(ValueError) as caught:
        folders.input_picture(name)
    assert len(str(caught.value)) < 400
    assert isinstance(DreamOLoadPicture.validate_inputs(name), str)


@pytest.mark.parametrize(
    "find",
    [
        lambda: folders.input_picture("none.png"),
        lambda: folders.input_picture("../none.png"),
        lambda: folders.input_folder("none"),
        lambda: folders.model_path("none.safetensors"),
        lambda: folders.lora_path("none.safetensors"),
    ],
)
def test_messages_do_not_tell_where_the_server_is(find):
    import folder_paths

    with pytest.raises(ValueError) as caught:
        find()
    assert str(folder_paths.base_path) not in str(caught.value)
    assert str(folder_paths.get_input_directory()) not in str(caught.value)
    assert str(folder_paths.models_dir) not in str(caught.value) and "/tmp" not in str(caught.value)


def test_a_picture_of_too_many_pixels_is_refused_with_advice(tmp_path, monkeypatch):
    Image.new("L", (200, 150)).save(tmp_path / "scan.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    with pytest.raises(
        ValueError, match="scan.png has more than 0 million pixels.*save it smaller. 4096 pixels"
    ) as caught:
        load.load_picture(tmp_path / "scan.png")
    assert "attack" not in str(caught.value)

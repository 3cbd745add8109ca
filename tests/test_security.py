"""Nothing a workflow says makes the pack reach outside ComfyUI's folders, open a connection, or load a pickle.

Every string and file widget of every node is tried with hostile values while an audit hook watches what Python opens,
connects to and unpickles.
"""

import asyncio
import inspect
import os
import sys
from pathlib import Path

import folder_paths
import pytest
import torch
from comfy_api.latest import io
from dreamo_routed.dreamo_core.host import small_models
from dreamo_routed.nodes import comfy_entrypoint
from support import make_chain, make_conditioning, make_model, small_flux

HOSTILE = [
    "../../secret.safetensors",
    "../../../../../../../../etc/passwd",
    "/etc/passwd",
    "..\\..\\secret.safetensors",
    "subfolder/../../../secret.safetensors",
    "....//....//secret.safetensors",
    "%2e%2e/%2e%2e/secret.safetensors",
    "secret.safetensors\x00.png",
    "file:///etc/passwd",
    "http://127.0.0.1:9/model.safetensors",
    "evil.pkl",
    "~/secret.safetensors",
    "C:\\Windows\\win.ini",
    "",
    ".",
    "..",
]

NODES = asyncio.run(asyncio.run(comfy_entrypoint()).get_node_list())


def text_widgets():
    """Every widget that takes free text, and file lists: the server checks those, but a node must not rely on it."""
    for node in NODES:
        for declared in node.define_schema().inputs:
            is_file_list = isinstance(declared, io.Combo.Input) and declared.id.endswith(("name", "file", "folder"))
            if isinstance(declared, io.String.Input) or is_file_list:
                yield pytest.param(node, declared.id, id=f"{node.define_schema().node_id}.{declared.id}")


class Watch:
    """What Python did while watched; audit hooks cannot be removed, so this one is switched."""

    def __init__(self):
        self.on, self.opened, self.connected, self.unpickled = False, [], [], []
        sys.addaudithook(self.hook)

    def hook(self, event, arguments):
        if not self.on:
            return
        if event in ("open", "os.listdir", "os.scandir", "os.remove", "os.rename", "os.mkdir", "shutil.copyfile"):
            self.opened += [str(a) for a in arguments[:2] if isinstance(a, (str, bytes, os.PathLike))][:1]
        elif event in ("socket.connect", "socket.getaddrinfo", "urllib.Request"):
            self.connected.append(arguments)
        elif event == "pickle.find_class":
            self.unpickled.append(arguments)


WATCH = Watch()


@pytest.fixture
def watch():
    WATCH.opened, WATCH.connected, WATCH.unpickled = [], [], []
    yield WATCH
    WATCH.on = False


@pytest.fixture(scope="module")
def feed():
    """Something that fits each type of input."""
    flux = small_flux()
    return {
        "MODEL": flux, "CLIP": small_models.small_text_encoders(), "VAE": small_models.small_vae(),
        "IMAGE": torch.rand(1, 32, 32, 3), "MASK": torch.ones(1, 32, 32), "CONDITIONING": make_conditioning(),
        "DREAMO_MODEL": make_model(), "DREAMO_REFERENCES": make_chain(1),
        "LATENT": {"samples": torch.zeros(1, 16, 8, 8)},
    }  # fmt: skip


def inputs_for(node, feed, widget, value):
    inputs = {}
    for declared in node.define_schema().inputs:
        kind = declared.get_io_type()
        if declared.id == widget:
            inputs[declared.id] = value
        elif kind in feed:
            inputs[declared.id] = feed[kind]
        elif not declared.optional:
            options = getattr(declared, "options", None)
            default = getattr(declared, "default", None)
            inputs[declared.id] = default if default is not None else (options[0] if options else "")
    return inputs


@pytest.fixture(scope="module")
def secrets():
    """Files just outside the folders a graph may name."""
    base = Path(folder_paths.models_dir).parent
    paths = [base.parent / "secret.safetensors", base / "secret.safetensors", base.parent / "evil.pkl"]
    for path in paths:
        path.write_bytes(b"\x80\x04not for you")
    yield [str(path) for path in paths]
    for path in paths:
        path.unlink()


@pytest.mark.parametrize("node, widget", text_widgets())
def test_hostile_text_stays_inside(node, widget, feed, secrets, watch):
    base = Path(folder_paths.models_dir).parent
    installed = [Path(sys.prefix), Path(sys.base_prefix), Path(os.environ["DREAMO_COMFYUI"]).parent]
    repository = Path(__file__).resolve().parent.parent
    allowed = [base, repository, *installed]
    for value in HOSTILE:
        inputs = inputs_for(node, feed, widget, value)
        watch.on = True
        try:
            result = node.execute(**inputs)
            if inspect.iscoroutine(result):
                asyncio.run(result)
        except (ValueError, FileNotFoundError, RuntimeError) as error:
            # One clear error is the answer we want; a traceback out of some library's inside is not.
            assert str(error)
        finally:
            watch.on = False
        for path in watch.opened:
            full = Path(os.path.realpath(path))
            assert str(full) not in secrets and full != Path("/etc/passwd"), f"{value!r} opened {full}"
            inside = any(full.is_relative_to(folder.resolve()) for folder in allowed)
            assert inside or full.parts[1] in ("proc", "sys", "dev"), f"{value!r} opened {full}"
        assert not watch.connected, f"{value!r} connected to {watch.connected}"
        assert not watch.unpickled, f"{value!r} unpickled {watch.unpickled}"


def test_the_watch_sees_what_it_should(watch, tmp_path):
    """Guards the test above."""
    import pickle
    import socket

    (tmp_path / "file").write_text("x")
    watch.on = True
    (tmp_path / "file").read_text()
    pickle.loads(pickle.dumps(Path("x")))
    with socket.socket() as probe:
        probe.settimeout(0.1)
        probe.connect_ex(("127.0.0.1", 9))
    watch.on = False
    assert str(tmp_path / "file") in watch.opened and watch.unpickled and watch.connected


def test_a_pickle_under_a_safe_name_is_refused(watch):
    import pickle

    from dreamo_routed.nodes.loader import DreamOLoader

    path = Path(folder_paths.models_dir) / "dreamo" / "renamed.safetensors"
    path.write_bytes(pickle.dumps({"dreamo_task_embedding.weight": [1, 2]}))
    watch.on = True
    with pytest.raises(ValueError, match="renamed.safetensors"):
        DreamOLoader.execute("renamed.safetensors")
    watch.on = False
    assert not watch.unpickled
    path.unlink()


def test_the_source_neither_downloads_nor_unpickles_in_nodes():
    """What runs inside the host: no torch.load, no pickle, no network client."""
    repository = Path(__file__).resolve().parent.parent
    words = (
        "torch.load",
        "import pickle",
        "urllib",
        "requests.",
        "huggingface_hub",
        "socket",
        "subprocess",
        "eval(",
        "exec(",
    )
    files = [*(repository / "nodes").rglob("*.py"), *(repository / "dreamo_core" / "host").rglob("*.py")]
    for path in files:
        found = [word for word in words if word in path.read_text()]
        assert not found, f"{path.name} has {found}"

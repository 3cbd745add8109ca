"""Nothing a workflow says makes the pack reach outside ComfyUI's folders, open a connection, or load a pickle.

Every string and file widget of every node is tried with hostile values, and every node with its defaults, while an
audit hook watches what Python opens, writes, starts, connects to and unpickles. Readers in native code are not seen by
it (safetensors' for one), so the files outside are valid ones: a node that reached them would succeed, and must not.
"""

import ast
import asyncio
import inspect
import os
import pickle
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path

import folder_paths
import pytest
import torch
from comfy_api.latest import io
from dreamo_routed.minidreamo.host import small_models
from dreamo_routed.nodes import comfy_entrypoint
from example_inputs import write_demo_dreamo
from PIL import Image
from support import REPO, make_chain, make_model

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
    "../../secret.png",
    "../secret.png [output]",
    "/etc",
    "~/secret.safetensors",
    "C:\\Windows\\win.ini",
    "",
    ".",
    "..",
]

NODES = asyncio.run(asyncio.run(comfy_entrypoint()).get_node_list())


SPAWNS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn")
CONNECTS = ("socket.connect", "socket.getaddrinfo", "socket.sendto", "urllib.Request", "http.client.connect")
CHANGES = (
    "os.remove", "os.rename", "os.link", "os.symlink", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod",
    "shutil.move", "shutil.copyfile", "shutil.copytree", "shutil.rmtree", "shutil.unpack_archive",
    "tempfile.mkstemp", "tempfile.mkdtemp", "sqlite3.connect",
)  # fmt: skip
READS = ("os.listdir", "os.scandir", "os.chdir")


def name_of(node):
    return node.define_schema().node_id


def names_a_file(declared):
    is_combo = isinstance(declared, io.Combo.Input) and declared.id != "sampler_name"
    return is_combo and declared.id.split("_")[-1] in ("name", "file", "folder", "image")


def text_widgets():
    """Every widget that takes free text, and file lists: the server checks those, but a node must not rely on it."""
    for node in NODES:
        for declared in node.define_schema().inputs:
            if isinstance(declared, io.String.Input) or names_a_file(declared):
                yield pytest.param(node, declared.id, id=f"{name_of(node)}.{declared.id}")


def file_widgets():
    """Of these, the ones that name a file or a folder."""
    for node in NODES:
        for declared in node.define_schema().inputs:
            if names_a_file(declared) or declared.id in ("folder", "file"):
                yield pytest.param(node, declared.id, id=f"{name_of(node)}.{declared.id}")


class Watch:
    """What Python did while watched; audit hooks cannot be removed, so this one is switched."""

    def __init__(self):
        self.on = False
        self.clear()
        sys.addaudithook(self.hook)

    def clear(self):
        self.opened, self.written, self.connected, self.spawned, self.unpickled = [], [], [], [], []

    def hook(self, event, arguments):
        if not self.on:
            return
        paths = [os.fsdecode(a) for a in arguments[:2] if isinstance(a, (str, bytes, os.PathLike))]
        if event == "open":
            path, mode, flags = arguments
            if isinstance(path, (str, bytes, os.PathLike)):
                # Either may say it: Python's own open has a mode, os.open has flags.
                writes = set(mode or "") & set("wax+") or (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
                (self.written if writes else self.opened).append(os.fsdecode(path))
        elif event in READS:
            self.opened += paths
        elif event in CHANGES:
            self.written += paths
        elif event in CONNECTS:
            self.connected.append(arguments)
        elif event in SPAWNS:
            self.spawned.append(arguments)
        elif event == "pickle.find_class":
            self.unpickled.append(arguments)

    def assert_harmless(self, secrets, what):
        base = Path(folder_paths.models_dir).parent.resolve()
        installed = [Path(sys.prefix), Path(sys.base_prefix), Path(os.environ["DREAMO_COMFYUI"]).parent]
        readable = [base, REPO, *(folder.resolve() for folder in installed)]
        for path in self.opened:
            full = Path(os.path.realpath(path))
            assert str(full) not in secrets and full != Path("/etc/passwd"), f"{what} opened {full}"
            inside = any(full.is_relative_to(folder) for folder in readable)
            assert inside or full.parts[1] in ("proc", "sys", "dev"), f"{what} opened {full}"
        for path in self.written:
            full = Path(os.path.realpath(path))
            # Python keeps its compiled modules beside them.
            fine = full.is_relative_to(base) or "__pycache__" in full.parts or full == Path(os.devnull)
            assert fine and str(full) not in secrets, f"{what} wrote {full}"
        assert not self.connected, f"{what} connected to {self.connected}"
        assert not self.spawned, f"{what} started {self.spawned}"
        assert not self.unpickled, f"{what} unpickled {self.unpickled}"


WATCH = Watch()


@pytest.fixture
def watch():
    WATCH.clear()
    yield WATCH
    WATCH.on = False


@pytest.fixture(scope="module")
def feed():
    """Something that fits each type of input; all of it fits together."""
    folder = Path(folder_paths.models_dir).parent
    write_demo_dreamo(folder)
    Image.new("RGB", (64, 64), "tomato").save(folder / "input" / "example.png")
    clip = small_models.small_text_encoders()
    encoded = clip.encode_from_tokens_scheduled(clip.tokenize(PROMPT), add_dict={"guidance": 3.5})
    fed = {
        "MODEL": small_models.small_flux(0, **small_models.DEMO_FLUX_CONFIG),
        "CLIP": clip, "VAE": small_models.small_vae(),
        "IMAGE": torch.rand(1, 32, 32, 3), "MASK": torch.ones(1, 32, 32), "CONDITIONING": encoded,
        "DREAMO_MODEL": make_model(64), "DREAMO_REFERENCES": make_chain(1),
        "LATENT": {"samples": torch.zeros(1, 16, 8, 8)},
    }  # fmt: skip
    (sampler,) = [node for node in NODES if name_of(node) == "DreamORoutedSampler"]
    fed["DREAMO_ROUTING_MAPS"] = run(sampler, inputs_for(sampler, fed)).args[3]
    yield fed
    shutil.rmtree(folder / "models" / "dreamo")
    (folder / "models" / "dreamo").mkdir()
    (folder / "input" / "example.png").unlink()


PROMPT = "a cat and a cup of coffee"

# Values that a default run needs, where the schema's own default stands for "nothing chosen yet".
DEFAULTS = {
    "DreamOLoader": {"dreamo_name": "dreamo.safetensors"},
    "DreamOLora": {"lora_name": "dreamo.safetensors"},
    "DreamOLoadPicture": {"image": "example.png"},
    "DreamORoutingWords": {"text": PROMPT},
    "DreamORoutedSampler": {"steps": 2},
}


# Widgets that are read under another choice alone.
READ_WITH = {name: {"preset": "v1"} for name in ("quality_pos_name", "quality_neg_name")}

# Nodes for which the feed has no fitting model, file or chain: with it they give one clear error, and stay inside too.
# Their own tests run them.
FED_ELSEWHERE = {
    "DreamOReferenceControl": "tests/families",
    "DreamOUSOStyle": "tests/sequence",
    "DreamOOfficialApply": "tests/graphs",
    "RealCustomLoader": "tests/realcustom",
    "RealCustomApply": "tests/realcustom",
}


def run(node, inputs):
    # The host gives a node its hidden values before it runs it.
    result = node.PREPARE_CLASS_CLONE({}).execute(**inputs)
    return asyncio.run(result) if inspect.iscoroutine(result) else result


def inputs_for(node, feed, widget=None, value=None):
    inputs = {}
    for declared in node.define_schema().inputs:
        kind = declared.get_io_type()
        if kind in feed:
            inputs[declared.id] = feed[kind]
        elif not declared.optional:
            options = getattr(declared, "options", None)
            default = getattr(declared, "default", None)
            inputs[declared.id] = default if default is not None else (options[0] if options else "")
    chosen = {**inputs, **DEFAULTS.get(name_of(node), {})}
    return {**chosen, **READ_WITH.get(widget, {}), widget: value} if widget else chosen


@pytest.fixture(scope="module")
def secrets(feed):
    """Valid files just outside the folders a graph may name, and where they are."""
    base = Path(folder_paths.models_dir).parent
    model = (base / "models" / "dreamo" / "dreamo.safetensors").read_bytes()
    paths = []
    for folder in (base.parent, base):
        (folder / "secret.safetensors").write_bytes(model)
        Image.new("RGB", (64, 64), "tomato").save(folder / "secret.png")
        paths += [folder / "secret.safetensors", folder / "secret.png"]
    (base.parent / "evil.pkl").write_bytes(pickle.dumps(Path("x")))
    paths.append(base.parent / "evil.pkl")
    yield [str(path.resolve()) for path in paths]
    for path in paths:
        path.unlink()


@pytest.mark.parametrize("node, widget", text_widgets())
def test_hostile_text_stays_inside(node, widget, feed, secrets, watch):
    for value in [*HOSTILE, *secrets]:
        inputs = inputs_for(node, feed, widget, value)
        watch.clear()
        watch.on = True
        try:
            run(node, inputs)
        except (ValueError, FileNotFoundError, RuntimeError) as error:
            # One clear error is the answer we want; a traceback out of some library's inside is not.
            assert str(error)
        finally:
            watch.on = False
        watch.assert_harmless(secrets, repr(value))


@pytest.mark.parametrize("node, widget", file_widgets())
def test_no_hostile_name_finds_a_file(node, widget, feed, secrets):
    """The files are there and valid, so a name that reached one would give a result."""
    for value in [*HOSTILE, *secrets, str(Path(secrets[0]).parent)]:
        if widget == "folder" and value in ("", "."):
            # No folder, and the input folder itself: both are inside.
            continue
        with pytest.raises((ValueError, FileNotFoundError)):
            run(node, inputs_for(node, feed, widget, value))


@pytest.mark.parametrize("node", NODES, ids=name_of)
def test_a_node_with_its_defaults_stays_inside(node, feed, secrets, watch):
    inputs = inputs_for(node, feed)
    refused = pytest.raises(ValueError) if name_of(node) in FED_ELSEWHERE else nullcontext()
    watch.on = True
    try:
        with refused:
            run(node, inputs)
    finally:
        watch.on = False
    watch.assert_harmless(secrets, name_of(node))


class Trap:
    """Unpickling this creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


PICKLES = ("renamed.safetensors", "renamed.pt", "renamed.pkl", "renamed.png", "dreamo.safetensors", "trap/x.png")


@pytest.mark.parametrize("node", NODES, ids=name_of)
def test_no_node_loads_a_pickle(node, feed, secrets, watch, tmp_path):
    """A pickle lies under every kind of name in every folder that the pack reads from."""
    base = Path(folder_paths.models_dir).parent
    sprung = tmp_path / "sprung"
    content = pickle.dumps(Trap(sprung))
    folders = [base / "models" / "dreamo", base / "models" / "loras", base / "input", base / "models" / "facexlib"]
    kept, written = {}, []
    for path in (folder / name for folder in folders for name in PICKLES):
        if path.exists():
            kept[path] = path.read_bytes()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        written.append(path)
    names = {"folder": ["trap"], "image": ["renamed.png", "trap/x.png"]}
    widgets = [p.values[1] for p in file_widgets() if p.values[0] is node]
    tries = [(None, None)] + [(w, n) for w in widgets for n in names.get(w, [n for n in PICKLES if "png" not in n])]
    watch.on = True
    try:
        for widget, name in tries:
            inputs = inputs_for(node, feed, widget, name)
            reads = widget is not None or name_of(node) == "DreamOModelStack"
            try:
                run(node, inputs)
            except (ValueError, FileNotFoundError) as error:
                assert str(error)
            else:
                assert not reads, f"{name_of(node)} took a pickle at {widget}={name}"
            assert not sprung.exists() and not watch.unpickled, f"{name_of(node)} unpickled {name}"
    finally:
        watch.on = False
        for path in written:
            path.unlink()
        for path, before in kept.items():
            path.write_bytes(before)


def test_the_watch_sees_what_it_should(watch, tmp_path):
    """Guards the tests above."""
    import socket
    import subprocess

    (tmp_path / "file").write_text("x")
    watch.on = True
    (tmp_path / "file").read_text()
    os.close(os.open(tmp_path / "low", os.O_CREAT | os.O_WRONLY))
    (tmp_path / "file").rename(tmp_path / "moved")
    pickle.loads(pickle.dumps(Trap(tmp_path / "sprung")))
    subprocess.run([sys.executable, "-c", ""], check=True)
    with socket.socket() as probe:
        probe.settimeout(0.1)
        probe.connect_ex(("127.0.0.1", 9))
    watch.on = False
    assert str(tmp_path / "file") in watch.opened and watch.unpickled and watch.connected and watch.spawned
    assert {str(tmp_path / "low"), str(tmp_path / "moved")} <= set(watch.written)
    assert (tmp_path / "sprung").exists()
    with pytest.raises(AssertionError, match="opened"):
        watch.assert_harmless([], "this")


NETWORK_AND_PICKLE = {
    "pickle", "dill", "joblib", "shelve", "marshal", "urllib", "requests", "http", "ftplib", "socket", "ssl", "httpx",
    "aiohttp", "subprocess", "huggingface_hub", "webbrowser",
}  # fmt: skip


def imported(path):
    """Modules that a source file imports anywhere in it, and the pack's own files among them."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if not node.level:
                yield node.module, None
                continue
            folder = path.parents[node.level - 1]
            target = folder.joinpath(*(node.module or "").split(".")) if node.module else folder
            candidates = [target, *(target / alias.name for alias in node.names)]
            files = [file for c in candidates for file in (c.with_suffix(".py"), c / "__init__.py") if file.is_file()]
            yield from ((None, file) for file in files)


def reachable():
    """Every file of the pack that runs inside the host."""
    found, waiting = set(), [REPO / "__init__.py", *(REPO / "nodes").glob("*.py")]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += [file for _, file in imported(path) if file]
    return sorted(found)


def test_what_runs_in_the_host_can_neither_download_nor_unpickle():
    files = reachable()
    # Guards the search itself.
    assert REPO / "dreamo_core" / "pictures" / "facexlib.py" in files and len(files) > 50
    for path in files:
        used = {module.split(".")[0] for module, _ in imported(path) if module}
        assert not used & NETWORK_AND_PICKLE, f"{path} imports {used & NETWORK_AND_PICKLE}"
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
            name = ast.unparse(call.func)
            assert name not in ("eval", "exec", "compile", "__import__", "os.system"), f"{path} calls {name}"
            if name == "torch.load":
                keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
                assert keywords.get("weights_only") == "True", f"{path} calls torch.load without weights_only"

"""How the pack sits in the host: its model folder, and nothing patched."""

import ast
import re
from pathlib import Path

import folder_paths
import pytest
from dreamo_routed.dreamo_core.host import folders as files
from safetensors.torch import save_file
from support import REPO, make_embeddings

SOURCES = sorted([*(REPO / "nodes").rglob("*.py"), *(REPO / "dreamo_core").rglob("*.py")])


def test_nothing_is_monkey_patched():
    pattern = re.compile(r"types\.MethodType|setattr\(.*forward|\.forward *=|forward_orig *=")
    found = [
        f"{path.name}: {line}" for path in SOURCES for line in path.read_text().splitlines() if pattern.search(line)
    ]
    assert SOURCES and not found


def test_only_the_adapter_imports_the_host():
    host_modules = {
        "comfy",
        "comfy_api",
        "comfy_extras",
        "comfy_execution",
        "folder_paths",
        "node_helpers",
        "nodes",
        "server",
    }
    for path in (REPO / "dreamo_core").rglob("*.py"):
        if "host" in path.relative_to(REPO / "dreamo_core").parts[:1]:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            assert not {name.split(".")[0] for name in names} & host_modules, f"{path.name} imports {names}"


@pytest.fixture
def extra_folder(tmp_path):
    """A second folder for DreamO files, as a line in extra_model_paths.yaml adds it."""
    folder_paths.add_model_folder_path(files.MODEL_FOLDER, str(tmp_path))
    yield tmp_path
    folder_paths.folder_names_and_paths[files.MODEL_FOLDER][0].remove(str(tmp_path))


def test_model_files_come_from_every_dreamo_folder_and_are_safetensors_only(extra_folder):
    tables = {"dreamo_task_embedding.weight": make_embeddings().task}
    save_file(tables, Path(folder_paths.models_dir) / "dreamo" / "in_models.safetensors")
    save_file(tables, extra_folder / "elsewhere.safetensors")
    (extra_folder / "pickle.bin").write_bytes(b"\x80\x04")
    assert {"in_models.safetensors", "elsewhere.safetensors"} <= set(files.model_files())
    assert "pickle.bin" not in files.model_files()
    assert files.model_path("elsewhere.safetensors") == extra_folder / "elsewhere.safetensors"


def test_a_missing_file_says_where_to_put_it():
    with pytest.raises(ValueError, match="no missing.safetensors in .*dreamo; put dreamo.safetensors or"):
        files.model_path("missing.safetensors")

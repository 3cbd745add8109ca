"""The house: arrows between rooms point down, the core stands without OpenCV, and the map leads to what it names."""

import importlib
import re
import shutil
import subprocess
import sys

import dreamo_routed.dreamo_core
import pytest
from support import REPO


def lint_imports(folder):
    command = "import sys; from importlinter.cli import lint_imports_command as c; sys.path.insert(0, '.'); c()"
    return subprocess.run(
        [sys.executable, "-c", command, "--no-cache"], cwd=folder, capture_output=True, text=True, timeout=120
    )


def test_arrows_between_rooms_only_point_down():
    result = lint_imports(REPO)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("attention/bias.py", "from ..sampling import apply_model", "only point down"),
        ("sequence/positions.py", "import comfy.utils", "ComfyUI is imported in host/ alone"),
        ("routing/masks.py", "import cv2", "OpenCV is imported in pictures/ alone"),
        ("checkpoint/write.py", "import peft", "PEFT is for adapter folders"),
        ("run/memo.py", "import minidreamo.autoencoder", "stands without the mini world"),
    ],
)
def test_a_planted_violation_is_found(tmp_path, file, line, broken):
    for package in ("dreamo_core", "minidreamo"):
        shutil.copytree(REPO / package, tmp_path / package, ignore=shutil.ignore_patterns("*.safetensors", "*.pyc"))
    shutil.copy(REPO / "pyproject.toml", tmp_path)
    with open(tmp_path / "dreamo_core" / file, "a") as planted:
        planted.write(f"\n{line}\n")
    result = lint_imports(tmp_path)
    assert result.returncode == 1
    assert [name for name in re.findall(r"(.+) BROKEN", result.stdout) if broken in name], result.stdout


def test_the_attention_core_imports_without_opencv():
    program = (
        "import sys; sys.modules['cv2'] = None\n"
        "import dreamo_core.sampling.apply_model, dreamo_core.routing.router, dreamo_core.checkpoint.read"
    )
    subprocess.run([sys.executable, "-c", program], cwd=REPO, check=True, timeout=120)


def test_every_entry_of_the_map_is_there():
    core = dreamo_routed.dreamo_core
    names = [name for name in re.findall(r"`([a-z_]+\.[\w.]+)`", core.__doc__) if not name.endswith(".toml")]
    assert len(names) > 20
    for name in names:
        parts = name.split(".")
        found = importlib.import_module(f"{core.__name__}.{'.'.join(parts[:2])}")
        for part in parts[2:]:
            found = getattr(found, part)


def test_each_equation_is_named_in_the_map():
    for equation in (1, 2, 3, 4, 5, 14, 15):
        assert re.search(rf"Eq\. {equation}\b.*`", dreamo_routed.dreamo_core.__doc__), equation

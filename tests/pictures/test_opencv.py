"""OpenCV comes from whichever of its four packages is there; ours never goes over another's files."""

import importlib.util
import re
import subprocess
import sys

import pytest
from support import REPO

OPENCV = re.compile(r"^\s*\"?opencv", re.IGNORECASE)


def run(program, *path):
    """In a Python that sees only these folders beside the standard library."""
    prelude = f"import sys; sys.path[:0] = {[str(p) for p in path]!r}\n"
    return subprocess.run([sys.executable, "-S", "-c", prelude + program], capture_output=True, text=True, timeout=60)


def test_no_opencv_package_is_required():
    project = (REPO / "pyproject.toml").read_text()
    required = re.search(r"^dependencies = \[(.*?)^\]", project, re.MULTILINE | re.DOTALL)[1]
    for lines in ((REPO / "requirements.txt").read_text(), required):
        assert not [line for line in lines.splitlines() if OPENCV.match(line)]


@pytest.mark.parametrize("package", ["opencv_python", "opencv_contrib_python", "opencv_contrib_python_headless"])
def test_any_package_serves(tmp_path, package):
    (tmp_path / f"{package}-4.10.0.84.dist-info").mkdir()
    (tmp_path / "cv2").mkdir()
    (tmp_path / "cv2/__init__.py").write_text("")
    result = run("import install; print(install.missing())", tmp_path, REPO)
    assert result.stdout.strip() == "[]", result.stderr


def test_where_there_is_none_it_is_installed_and_only_there(tmp_path):
    program = (
        "import install, subprocess\n"
        "subprocess.run = lambda command: print(command[1:]) or type('Done', (), {'returncode': 3})\n"
        "print(install.main())"
    )
    result = run(program, tmp_path, REPO)
    assert "['-m', 'pip', 'install', 'opencv-python-headless>=4.9,<6']\n3\n" in result.stdout, result.stderr


def test_without_opencv_the_pack_says_what_to_install():
    file = REPO / "dreamo_core/pictures/opencv.py"
    result = run(f"import runpy; runpy.run_path({str(file)!r})")
    assert result.returncode == 1
    assert "run `python -m pip install opencv-python-headless` with ComfyUI's Python" in result.stderr


def test_the_range_is_the_one_that_is_tested():
    spec = importlib.util.spec_from_file_location("install", REPO / "install.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.OPENCV in (REPO / "requirements-dev.txt").read_text().splitlines()
    assert f'opencv = ["{module.OPENCV}"]' in (REPO / "pyproject.toml").read_text()

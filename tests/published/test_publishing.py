"""What the Comfy Registry would get: its metadata, and an archive that holds what is needed and nothing else."""

import re
import subprocess

import pytest
import tomllib
from support import REPO

PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())


def git(*arguments):
    result = subprocess.run(["git", "-C", str(REPO), *arguments], capture_output=True, text=True)
    if result.returncode:
        pytest.skip(f"the archive's contents depend on git: {result.stderr.strip()}; run this in a git checkout")
    return set(result.stdout.splitlines())


@pytest.fixture(scope="module")
def published():
    """The registry publishes the files git tracks, less those that .comfyignore names."""
    return git("ls-files") - git("ls-files", "--ignored", "--cached", "--exclude-from=.comfyignore")


def test_metadata_follows_the_registry():
    project, comfy = PROJECT["project"], PROJECT["tool"]["comfy"]
    assert re.fullmatch(r"[a-z][a-z0-9._-]{0,99}", project["name"]) and "comfyui" not in project["name"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert project["description"] and project["license"] == {"file": "LICENSE"} and (REPO / "LICENSE").exists()
    assert project["urls"]["Repository"].startswith("https://")
    assert comfy["PublisherId"] and comfy["DisplayName"] and comfy["requires-comfyui"].startswith(">=")
    assert comfy["Icon"].endswith((".png", ".svg"))


def test_the_version_is_in_the_changelog():
    assert f"## {PROJECT['project']['version']}" in (REPO / "CHANGELOG.md").read_text()


def test_requirements_agree():
    """People who clone install requirements.txt; the registry installs pyproject's dependencies."""
    lines = (REPO / "requirements.txt").read_text().splitlines()
    assert sorted(line for line in lines if line and not line.startswith("#")) == sorted(
        PROJECT["project"]["dependencies"]
    )
    for dependency in PROJECT["project"]["dependencies"]:
        assert not re.search(r"://|git\+|@", dependency), f"{dependency} is not a plain PyPI requirement"
        assert not re.match(r"(torch|comfyui)", dependency), f"{dependency} comes from the host"


def test_the_archive_holds_what_is_needed(published):
    assert {
        "__init__.py",
        "pyproject.toml",
        "requirements.txt",
        "install.py",
        "README.md",
        "LICENSE",
        "NOTICE",
        "CHANGELOG.md",
    } <= published
    for folder, suffix in (
        ("nodes", ".py"), ("dreamo_core", ".py"), ("workflows", ".json"), ("web/docs", ".md"), ("web/docs", ".webp"),
        ("web/js", ".js"), ("locales", ".json"),
    ):  # fmt: skip
        on_disk = {str(path.relative_to(REPO)) for path in (REPO / folder).rglob(f"*{suffix}")}
        assert on_disk and on_disk <= published, f"not published: {sorted(on_disk - published)}"


def test_the_archive_holds_nothing_else(published):
    # Of the mini world what the demo nodes need, not its training.
    mini = (
        "minidreamo/__init__.py",
        "minidreamo/autoencoder.py",
        "minidreamo/host/",
        "minidreamo/weights/",
        "minidreamo/references/",
    )
    allowed = ("nodes/", "dreamo_core/", "workflows/", "web/", "locales/", "pictures/", *mini)
    papers = {"README.md", "LICENSE", "NOTICE", "CHANGELOG.md"}
    top_level = {"__init__.py", "install.py", "pyproject.toml", "requirements.txt", *papers}
    assert not [name for name in published if name not in top_level and not name.startswith(allowed)]


def test_no_pickles_and_not_too_large(published):
    tracked = git("ls-files")
    assert not [name for name in tracked if name.endswith((".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle"))]
    binary = [REPO / name for name in tracked if name.endswith((".safetensors", ".png", ".webp", ".jpg"))]
    assert sum(path.stat().st_size for path in binary) < 60 * 2**20
    assert sum((REPO / name).stat().st_size for name in published) < 60 * 2**20

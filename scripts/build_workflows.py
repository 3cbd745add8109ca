"""Writes the graphs of `workflow_graphs` into `workflows/`, against a running host's node definitions.

python3 scripts/host.py exec scripts/build_workflows.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from comfy_server import Server
from graph import save
from workflow_graphs import WORKFLOWS

FOLDER = Path(__file__).resolve().parent.parent / "workflows"


def main() -> None:
    with tempfile.TemporaryDirectory() as base, Server(Path(base)) as server:
        info = server.object_info()
    for name, build in WORKFLOWS.items():
        save(build(info), FOLDER / f"{name}.json")
        print(FOLDER / f"{name}.json")


if __name__ == "__main__":
    main()

"""The demo: the real server, the template to open first, and a contact sheet of what the mini world can do.

Called by ./demo.sh. Everything is drawn by the trained weights that come with the pack.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path

import mini_demo
from comfy_server import Server
from graph import to_prompt

REPO = Path(__file__).resolve().parent.parent
FIRST = "a_first_picture"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=REPO / "demo_output", help="folder for pictures and the log")
    out = parser.parse_args().out.resolve()
    base = out / "comfyui"
    base.mkdir(parents=True, exist_ok=True)
    with Server(base) as server:
        print(f"Server ready at {server.url}, log in {server.log_file}", flush=True)
        workflow = json.loads((REPO / "workflows" / f"{FIRST}.json").read_text())
        started = time.monotonic()
        print(FIRST, flush=True)
        outputs = server.run(to_prompt(workflow, server.object_info()), lambda line: print("  ", line, flush=True))
        print(f"   done in {time.monotonic() - started:.1f} s", flush=True)
        for path in server.image_files(outputs):
            shutil.copy(path, out / path.name)
        print("the mini world", flush=True)
        mini_demo.sheet(mini_demo.run_rows(server), out / "mini_world.webp")
    print("\nPictures:")
    for path in sorted([*out.glob("*.png"), *out.glob("*.webp")]):
        print("  ", path)


if __name__ == "__main__":
    main()

"""python -m dreamo_core.graphs convert FILE… [--to FOLDER]: graphs of the official pack, on this pack's nodes."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from .official import REPLACEMENTS, convert


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dreamo_core.graphs", description="Graphs of the official pack.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("convert", help="replace the official pack's nodes by this pack's")
    command.add_argument("file", type=Path, nargs="+", help="a graph as ComfyUI saves it (JSON)")
    command.add_argument("--to", type=Path, metavar="FOLDER", help="for the results; else beside each file")
    return parser


def convert_file(path: Path, folder: Path) -> str:
    """Write the converted graph as NAME_routed.json into the folder; a line that says so.

    Raises:
        ValueError: not a graph, or none of the official nodes is in it.
    """
    try:
        graph = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from error
    converted, count = convert(graph)
    if not count:
        raise ValueError(f"{path} has none of the nodes {', '.join(r.old for r in REPLACEMENTS)}.")
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{path.stem}_routed.json"
    target.write_text(json.dumps(converted, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return f"{target}: {count} nodes replaced"


def main(argv: list[str]) -> int:
    args = _parser().parse_args(argv)
    try:
        for path in args.file:
            print(convert_file(path, args.to or path.parent))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""python -m dreamo_core.checkpoint inspect FILE… | download PRESET… --to DIR"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..realcustom.weights import describe_file
from .describe import describe
from .download import DownloadError, download
from .lora.peft_settings import WEIGHTS_NAME
from .presets import DOWNLOADS, FILES, read_manifest


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dreamo_core.checkpoint", description="DreamO files.")
    commands = parser.add_subparsers(dest="command", required=True)
    inspect = commands.add_parser("inspect", help="print what a file is")
    inspect.add_argument("file", type=Path, nargs="+", help="safetensors, a RealCustom .pth, or a PEFT adapter folder")
    fetch = commands.add_parser("download", help="fetch released files from the Hugging Face Hub")
    fetch.add_argument("preset", nargs="+", choices=DOWNLOADS, help="what to fetch: " + ", ".join(DOWNLOADS))
    fetch.add_argument("--to", type=Path, required=True, metavar="DIR", help="for example ComfyUI/models/dreamo")
    fetch.add_argument("--endpoint", help="a mirror that speaks the Hub's protocol")
    fetch.add_argument("--manifest", type=Path, help="another list of files, sizes and hashes")
    return parser


def main(argv: list[str]) -> int:
    args = _parser().parse_args(argv)
    try:
        if args.command == "inspect":
            paths = [path / WEIGHTS_NAME if path.is_dir() else path for path in args.file]
            tables = [describe_file(path) or describe(path) for path in paths]
            print("\n\n".join(tables))
        else:
            files = read_manifest(args.manifest) if args.manifest else FILES
            # Presets overlap; each file once, in order.
            wanted = dict.fromkeys(name for preset in args.preset for name in DOWNLOADS[preset])
            download([files[name] for name in wanted], args.to, args.endpoint)
    except (ValueError, DownloadError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Writes `locales/en/nodeDefs.json` from the nodes' own schemas: the texts that other languages translate.

    python3 scripts/host.py exec scripts/build_locales.py

`locales/<language>` is written by hand, with the same keys. The front end looks up `nodeDefs.<node>.inputs.<id>.name`,
`.tooltip` and `nodeDefs.<node>.outputs.<index>`; its messages are vue-i18n's, in which `{`, `}`, `@` and `|` mean
something.
"""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

from comfy_server import Server
from graph import inputs_of

LOCALES = Path(__file__).resolve().parent.parent / "locales"


def escaped(text: str) -> str:
    """The text as a vue-i18n message that reads the same."""
    return re.sub(r"[{}@|]", lambda found: f"{{'{found[0]}'}}", text)


def entry(name: str, tooltip: str | None) -> dict[str, str]:
    return {"name": escaped(name), **({"tooltip": escaped(tooltip)} if tooltip else {})}


def english(object_info: dict[str, Any]) -> dict[str, Any]:
    """The pack's texts in the host's `nodeDefs.json` format."""
    return {
        node_id: {
            "display_name": escaped(info["display_name"]),
            "description": escaped(info["description"]),
            "inputs": {
                name: entry(options.get("display_name") or name, options.get("tooltip"))
                for name, _, options in inputs_of(info)
            },
            "outputs": {
                str(i): entry(name, tooltip)
                for i, (name, tooltip) in enumerate(zip(info["output_name"], info["output_tooltips"], strict=True))
            },
        }
        for node_id, info in sorted(object_info.items())
        if node_id.startswith(("DreamO", "RealCustom"))
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as base, Server(Path(base)) as server:
        texts = english(server.object_info())
    path = LOCALES / "en" / "nodeDefs.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(texts, indent=2, ensure_ascii=False) + "\n")
    print(path)


if __name__ == "__main__":
    main()

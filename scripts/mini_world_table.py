"""The mini world's table in docs/measuring.md, from docs/mini_world.json; with folders of runs, that file first.

    python3 scripts/host.py exec scripts/mini_world_table.py [UNROUTED ROUTED COMPARED]

The folders are those of `python -m dreamo_core.bench mini_world` with either graph and of their `compare`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pandas as pd

REPO = Path(__file__).resolve().parent.parent
NUMBERS, PAGE = REPO / "docs" / "mini_world.json", REPO / "docs" / "measuring.md"
BEGIN = "<!-- mini_world: written by scripts/mini_world_table.py from docs/mini_world.json -->"
END = "<!-- end -->"


def gather(unrouted: Path, routed: Path, compared: Path) -> dict[str, Any]:
    """What the three reports say."""
    runs = {name: json.loads((run / "report.json").read_text()) for name, run in
            (("unrouted", unrouted), ("routed", routed))}  # fmt: skip
    differences = json.loads((compared / "report.json").read_text())["differences"]
    return {
        "pictures": runs["unrouted"]["pictures"],
        "seeds": runs["unrouted"]["seeds"],
        "unrouted": runs["unrouted"]["means"],
        "routed": runs["routed"]["means"],
        "differences": differences,
    }


def table(numbers: dict[str, Any]) -> str:
    """Markdown: mean with its 95 % interval unrouted and routed, the difference, p."""

    def between(values: dict[str, float], mean: str) -> str:
        return f"{values[mean]:.3f} ({values['low']:.3f} to {values['high']:.3f})"

    rows = {
        metric: {
            "unrouted": between(numbers["unrouted"][metric], "mean"),
            "routed": between(numbers["routed"][metric], "mean"),
            "routed − unrouted": between(change, "B − A"),
            "p": f"{change['p']:.3f}",
        }
        for metric, change in numbers["differences"].items()
    }
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.index.name = "metric (subjects)"
    return frame.to_markdown(disable_numparse=True)


def page_with(text: str, numbers: dict[str, Any]) -> str:
    """The page's text with the table between its two marks."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    lead = f"{numbers['pictures']} pictures each, {len(numbers['seeds'])} seeds; 95 % intervals over scenes."
    return f"{before}{BEGIN}\n{lead}\n\n{table(numbers)}\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*")
    runs = parser.parse_args().runs
    if runs:
        NUMBERS.write_text(json.dumps(gather(*runs), indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text(page_with(PAGE.read_text(), json.loads(NUMBERS.read_text())))


if __name__ == "__main__":
    main()

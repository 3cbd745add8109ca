"""Likeness against number of samples: what was gained, and what more training would bring if it goes on so.

    python -m minidreamo.curve [STATE/curve.jsonl]

Prints the scores after every round of `train_all` as a Markdown table, then for every score the line through it over
the logarithm of all samples seen, and the samples at which that line meets the goal. A line through few rounds is a
guess and says so: its standard error is printed.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np

EARLIER = 59_600
"""Samples that the weights of round 0 had seen: 7450 steps of 8 (README.md)."""
GOALS = {"subject (1)": 0.6, "named (1)": 0.6, "subject (2)": 0.6, "named (2)": 0.6, "swapped (2)": 0.05, "style": 0.45}


def read(path: Path) -> list[dict]:
    """Rows of `train_all`, by round."""
    return sorted(map(json.loads, path.read_text().splitlines()), key=lambda row: row["round"])


def line(samples: np.ndarray, values: np.ndarray) -> tuple[float, float, float]:
    """Value at one sample and gain for each tenfold of samples, by least squares, and that gain's standard error.

    The error is infinite with fewer than three rounds.
    """
    x = np.log10(samples)
    centred = x - x.mean()
    gain = float((centred * values).sum() / (centred**2).sum())
    start = float(values.mean() - gain * x.mean())
    if len(values) < 3:
        return start, gain, math.inf
    rest = values - start - gain * x
    return start, gain, float(math.sqrt((rest**2).sum() / (len(values) - 2) / (centred**2).sum()))


def reaches(start: float, gain: float, goal: float) -> float:
    """Samples at which the line meets a goal; infinite where it leads away from it or never moves."""
    if gain == 0:
        return math.inf
    power = (goal - start) / gain
    return 10**power if power < 12 else math.inf


def tables(rows: list[dict], earlier: int = EARLIER) -> str:
    """Markdown of the rounds and of the lines through them."""
    samples = np.array([earlier + row["samples"] for row in rows])
    lines = ["| round | samples | " + " | ".join(GOALS) + " |", "|" + " --- |" * (len(GOALS) + 2)]
    for row, count in zip(rows, samples, strict=True):
        cells = [f"{row['scores'][name]:.3f}" for name in GOALS]
        lines.append(f"| {row['round']} | {count} | " + " | ".join(cells) + " |")
    if len(rows) < 2:
        return "\n".join(lines)
    lines += ["", "| score | goal | a tenfold of samples adds | goal met at |", "| --- | --- | --- | --- |"]
    for name, goal in GOALS.items():
        values = np.array([row["scores"][name] for row in rows])
        start, gain, error = line(samples, values)
        meets = reaches(start, gain, goal)
        met = (values[-1] <= goal) if name.startswith("swapped") else (values[-1] >= goal)
        when = "met" if met else f"{meets:.1e} samples" if samples[-1] < meets < math.inf else "not on this line"
        lines.append(f"| {name} | {goal} | {gain:+.3f} ± {error:.3f} | {when} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path.home() / ".cache" / "minidreamo-state" / "curve.jsonl"
    parser.add_argument("rows", type=Path, nargs="?", default=default)
    print(tables(read(parser.parse_args().rows)))


if __name__ == "__main__":
    main()

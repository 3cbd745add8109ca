"""Means with intervals, and the papers' own numbers beside them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from ..measure.statistics import difference_of, mean_of

PAPERS = Path(__file__).with_name("papers.json")
OURS = "this run"


def means(scores: pd.DataFrame) -> pd.DataFrame:
    """A row a metric: mean, low, high (95 %, bootstrap over groups), pictures, groups."""
    rows = {
        metric: asdict(mean_of(part["value"].tolist(), part["group"].tolist()))
        for metric, part in scores.groupby("metric")
    }
    table = pd.DataFrame.from_dict(rows, orient="index").rename(columns={"count": "pictures"})
    table.index.name = "metric"
    return table


def papers(benchmark: str, found: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The papers' tables of a benchmark by their source, each with this run as its last column, in the paper's unit.

    Args:
        found: as from `means`.
    """
    tables = {}
    for entry in json.loads(PAPERS.read_text(encoding="utf-8"))["benchmarks"].get(benchmark, []):
        rows = {}
        for row in entry["rows"]:
            ours = found.at[row["ours"], "mean"] * row["factor"] if row["ours"] in found.index else float("nan")
            rows[row["printed"]] = {**row["values"], OURS: ours, "scored as": row["ours"] or "not scored"}
        tables[entry["source"]] = pd.DataFrame.from_dict(rows, orient="index")
    return tables


def joined(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """Scores of two runs side by side, where both have a picture's: columns `a` and `b`.

    Raises:
        ValueError: nothing in common.
    """
    keys = ["metric", "case", "group", "seed"]
    both = a.merge(b, on=keys, suffixes=("_a", "_b")).rename(columns={"value_a": "a", "value_b": "b"})
    if both.empty:
        raise ValueError("The two runs have no picture in common: same benchmark, seeds and scorers are needed.")
    return both


def differences(both: pd.DataFrame) -> pd.DataFrame:
    """A row a metric: means of A and B, B − A with its interval, p, and the standard deviation of A's pictures."""
    rows = {}
    for metric, part in both.groupby("metric"):
        found = difference_of(part["a"].tolist(), part["b"].tolist(), part["group"].tolist())
        rows[metric] = {
            "A": part["a"].mean(), "B": part["b"].mean(), "B − A": found.mean.mean, "low": found.mean.low,
            "high": found.mean.high, "p": found.p, "spread of A": part["a"].std(),
            "pictures": found.mean.count, "groups": found.mean.groups,
        }  # fmt: skip
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index.name = "metric"
    return table

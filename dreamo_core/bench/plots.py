"""Plots of scores."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

INK, PALE = "#1f4e8c", "#9aa5b1"
COLUMNS = 6


def _panels(scores: pd.DataFrame, side: float) -> tuple[Figure, list]:
    """A figure with an axis a metric, `COLUMNS` in a row; its (axis, metric, rows of the metric)."""
    parts = list(scores.groupby("metric"))
    columns = min(COLUMNS, len(parts))
    rows = -(-len(parts) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(side * columns, side * 1.15 * rows), squeeze=False)
    for empty in axes.flat[len(parts) :]:
        empty.set_axis_off()
    return figure, [(axis, *part) for axis, part in zip(axes.flat, parts, strict=False)]


def spreads(scores: pd.DataFrame) -> Figure:
    """Where the pictures of each metric lie: a violin with the quartiles, each metric on an axis of its own."""
    figure, panels = _panels(scores, 1.75)
    for axis, metric, part in panels:
        values = part["value"].to_numpy()
        if len(values) > 1 and np.ptp(values) > 0:
            axis.violinplot(values, showextrema=False, quantiles=[0.25, 0.5, 0.75])
        else:
            axis.plot(np.ones_like(values), values, "o", color=INK)
        axis.set_title(str(metric), fontsize=8)
        axis.set_xticks([])
        axis.tick_params(labelsize=7)
    figure.tight_layout()
    return figure


def forest(table: pd.DataFrame) -> Figure:
    """B − A of every metric with its interval, in units of A's spread: what crosses the line may be chance."""
    figure, axis = plt.subplots(figsize=(7, 0.45 * len(table) + 1))
    for row, (_, values) in enumerate(table[::-1].iterrows()):
        if not values["spread of A"] > 0:
            continue
        low, middle, high = (values[name] / values["spread of A"] for name in ("low", "B − A", "high"))
        colour = INK if low > 0 or high < 0 else PALE
        axis.plot([low, high], [row, row], color=colour, lw=2)
        axis.plot(middle, row, "o", color=colour)
    axis.axvline(0, color="gray", lw=1)
    axis.set_yticks(range(len(table)), list(table.index[::-1]), fontsize=8)
    axis.set_ylim(-0.6, len(table) - 0.4)
    axis.set_xlabel("B − A, in standard deviations of A's pictures (95 % interval)", fontsize=8)
    axis.tick_params(axis="x", labelsize=8)
    return figure


def pairs(both: pd.DataFrame) -> Figure:
    """Every group's mean under A against that under B; on the line nothing changed."""
    figure, panels = _panels(both, 1.9)
    for axis, metric, part in panels:
        mean = part.groupby("group")[["a", "b"]].mean()
        ends = [mean.to_numpy().min(), mean.to_numpy().max()]
        axis.plot(ends, ends, color="gray", lw=1)
        axis.plot(mean["a"], mean["b"], "o", ms=3, color=INK)
        axis.set_title(str(metric), fontsize=8)
        axis.set_xlabel("A", fontsize=7)
        axis.set_ylabel("B", fontsize=7)
        axis.tick_params(labelsize=6)
    figure.tight_layout()
    return figure

"""Plots of scores."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

INK, LOW, HIGH = "#2b5f9e", "#b3261e", "#2c7a4b"


def spreads(scores: pd.DataFrame) -> Figure:
    """Where the pictures of each metric lie: a violin with the quartiles, each metric on an axis of its own."""
    parts = list(scores.groupby("metric"))
    figure, axes = plt.subplots(1, len(parts), figsize=(2.1 * len(parts) + 0.6, 2.6), squeeze=False)
    for axis, (metric, part) in zip(axes[0], parts, strict=True):
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
    scale = table["in spreads of A"] / table["B − A"].where(table["B − A"] != 0)
    for row, (metric, values) in enumerate(table[::-1].iterrows()):
        unit = scale[metric]
        if not np.isfinite(unit):
            continue
        ends = np.array([values["low"], values["high"]]) * unit
        certain = ends[0] > 0 or ends[1] < 0
        colour = INK if not certain else HIGH if values["B − A"] > 0 else LOW
        if np.isfinite(ends).all():
            axis.plot(ends, [row, row], color=colour, lw=2)
        axis.plot(values["in spreads of A"], row, "o", color=colour)
    axis.axvline(0, color="gray", lw=1)
    axis.set_yticks(range(len(table)), list(table.index[::-1]), fontsize=8)
    axis.set_ylim(-0.6, len(table) - 0.4)
    axis.set_xlabel("B − A, in standard deviations of A's pictures (95 % interval)", fontsize=8)
    axis.tick_params(axis="x", labelsize=8)
    return figure


def pairs(both: pd.DataFrame) -> Figure:
    """Every group's mean under A against that under B; on the line nothing changed."""
    parts = list(both.groupby("metric"))
    figure, axes = plt.subplots(1, len(parts), figsize=(2.4 * len(parts), 2.6), squeeze=False)
    for axis, (metric, part) in zip(axes[0], parts, strict=True):
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

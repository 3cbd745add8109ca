"""The pages of a run and of a comparison, each with a JSON file of the same numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from ..measure.files import Scrubber, write_json, write_whole
from ..measure.page import BAD, NOTE, SKIPPED, Finding, Section, Shown, render, show_figure, show_picture
from . import plots, tables
from .case import Benchmark, Case
from .draw import FAILURES, picture_path

SHOWN = 8
"""Best and worst pictures of a metric."""
EXAMPLES = 12


def _records(table: pd.DataFrame) -> dict[str, Any]:
    """A table for JSON; what is not a number is null."""
    return json.loads(table.to_json(orient="index"))


def _captioned(case: Case, seed: int, out: Path, caption: str) -> list[Shown]:
    with Image.open(picture_path(out, case.id, seed)) as picture:
        return [show_picture(picture, caption)]


def _references(case: Case) -> list[Shown]:
    found = []
    for number, reference in enumerate(case.references, start=1):
        with Image.open(reference.path) as picture:
            found.append(show_picture(picture, f"reference {number} ({reference.task})", width=192))
    return found


def _examples(cases: Mapping[str, Case], drawn: Sequence[tuple[str, int]], out: Path) -> Section:
    """Cases spread evenly over the run, each with its references."""
    step = max(1, len(drawn) // EXAMPLES)
    pictures: list[Shown] = []
    for name, seed in drawn[::step][:EXAMPLES]:
        case = cases[name]
        pictures += [*_references(case), *_captioned(case, seed, out, f"{case.prompt} (seed {seed})")]
    return Section("Examples", "Evenly spread over the run, none chosen.", pictures=pictures)


def _extremes(scores: pd.DataFrame, cases: Mapping[str, Case], out: Path) -> list[Section]:
    sections = []
    for metric, part in scores.groupby("metric"):
        ordered = part.sort_values("value", ascending=False, kind="stable")
        chosen = ordered if len(ordered) <= 2 * SHOWN else pd.concat([ordered.head(SHOWN), ordered.tail(SHOWN)])
        pictures = [
            shown
            for row in chosen.itertuples()
            for shown in _captioned(cases[row.case], row.seed, out, f"{row.value:.4g}: {cases[row.case].prompt}")
        ]
        sections.append(Section(f"{metric}: highest and lowest", pictures=pictures, listed=False))
    return sections


def run_report(
    benchmark: Benchmark, cases: Sequence[Case], seeds: Sequence[int], out: Path, scores: pd.DataFrame | None,
    facts: Mapping[str, str], notes: Sequence[str], scrub: Scrubber,
) -> None:  # fmt: skip
    """Write `report.html` and `report.json` of a run.

    Args:
        scores: as from `read_scores`, or None if nothing was scored.
        facts: machine and versions.
    """
    by_id = {case.id: case for case in cases}
    every = [(case.id, seed) for case in cases for seed in seeds]
    drawn = [key for key in every if picture_path(out, *key).exists()]
    failures = json.loads((out / FAILURES).read_text()) if (out / FAILURES).exists() else []
    findings = [Finding(NOTE, note) for note in (*benchmark.notes, *notes)]
    findings += [Finding(SKIPPED, text) for text in benchmark.shortfalls(list(cases), len(seeds))]
    if len(drawn) < len(every):
        findings.append(Finding(SKIPPED, f"{len(drawn)} of {len(every)} pictures are drawn so far."))
    findings += [Finding(BAD, f"{f['case']}, seed {f['seed']}: {f['said']}") for f in failures]
    data: dict[str, Any] = {
        "benchmark": benchmark.name, "title": benchmark.title, "machine": dict(facts), "pictures": len(drawn),
        "wanted": len(every), "seeds": list(seeds), "notes": [f.text for f in findings], "means": {}, "papers": {},
    }  # fmt: skip
    where = {"data": benchmark.data.where, "licence": benchmark.data.licence, "known from": benchmark.data.known_from}
    sections = [Section("Run", facts=where, findings=findings)]
    if scores is not None and len(scores):
        found = tables.means(scores)
        beside = tables.papers(benchmark.name, found)
        sections.append(
            Section(
                "Scores", "Mean over pictures; 95 % interval by bootstrap over subjects.", tables={"": found},
                pictures=[show_figure(plots.spreads(scores))],
            )
        )  # fmt: skip
        if beside:
            sections.append(Section("Beside the papers", tables=beside))
        data |= {"means": _records(found), "papers": {name: _records(table) for name, table in beside.items()}}
    if drawn:
        sections.append(_examples(by_id, drawn, out))
    if scores is not None and len(scores):
        sections += _extremes(scores, by_id, out)
    sections.append(Section("Machine", facts=facts))
    page = render(benchmark.title, f"{len(drawn)} pictures of {len(every)}", sections)
    write_whole(out / "report.html", scrub.text(page).encode())
    write_json(out / "report.json", scrub(data))


def compare_report(
    names: tuple[str, str], both: pd.DataFrame, runs: tuple[Path, Path], cases: Mapping[str, Case] | None, out: Path,
    scrub: Scrubber,
) -> pd.DataFrame:  # fmt: skip
    """Write `report.html` and `report.json` of a comparison; returns its table.

    Args:
        both: as from `tables.joined`.
        cases: for the prompts under the pictures, where the data are at hand.
    """
    table = tables.differences(both)
    certain = [
        Finding(
            NOTE,
            f"{metric}: B is {'higher' if row['B − A'] > 0 else 'lower'} by {abs(row['B − A']):.4g} "
            f"({row['low']:.4g} to {row['high']:.4g}), p = {row['p']:.3g}, {int(row['groups'])} groups.",
        )
        for metric, row in table.iterrows()
        if row["low"] > 0 or row["high"] < 0
    ]
    if not certain:
        certain = [Finding(NOTE, "No metric differs by more than chance would do.")]
    sections = [
        Section("What differs", findings=certain, pictures=[show_figure(plots.forest(table))]),
        Section(
            "Numbers",
            "Paired: the same cases and seeds. Interval: bootstrap over groups. p: sign flips of the groups' mean "
            "differences; not corrected for the number of metrics.",
            tables={"": table}, pictures=[show_figure(plots.pairs(both))],
        ),
    ]  # fmt: skip
    for metric, part in both.groupby("metric"):
        change = (part["b"] - part["a"]).sort_values(kind="stable")
        chosen = part.loc[[*change.index[: SHOWN // 2], *change.index[-SHOWN // 2 :]]].drop_duplicates()
        pictures = []
        for row in chosen.itertuples():
            prompt = cases[row.case].prompt if cases and row.case in cases else row.case
            for letter, run, value in zip("AB", runs, (row.a, row.b), strict=True):
                with Image.open(picture_path(run, row.case, row.seed)) as picture:
                    pictures.append(show_picture(picture, f"{letter} {value:.4g}: {prompt} (seed {row.seed})"))
        sections.append(Section(f"{metric}: largest changes", pictures=pictures, listed=False))
    title = f"A: {names[0]}, B: {names[1]}"
    page = render("Two settings compared", title, sections)
    write_whole(out / "report.html", scrub.text(page).encode())
    write_json(out / "report.json", scrub({"A": names[0], "B": names[1], "differences": _records(table)}))
    return table

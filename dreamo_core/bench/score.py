"""Scoring what was drawn: a CSV file a scorer, kept while its weights, its cut and the picture stay the same."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
from PIL import Image
from tqdm import tqdm

from ..checkpoint.download import sha256_of
from ..measure.files import write_whole
from .case import Case
from .cut import Cut
from .draw import picture_path
from .scorers.protocol import Scorer, Shot

SCORES = "scores"
COLUMNS = ["case", "group", "seed", "metric", "value", "picture", "version"]
BATCH = 16
SAVE_EVERY = 20.0
"""Seconds of work that a killed run may lose."""


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB")


class Shots:
    """Pictures of a run with their references, cut; references are cut once."""

    def __init__(self, out: Path, cut: Cut):
        self.out, self.cut = out, cut
        self._references: dict[Path, Image.Image] = {}

    def _reference(self, path: Path, keep: Path | None) -> Image.Image:
        if path not in self._references:
            self._references[path] = self.cut(_opened(path), _opened(keep) if keep else None)
        return self._references[path]

    def of(self, case: Case, seed: int) -> Shot:
        whole = _opened(picture_path(self.out, case.id, seed))
        references = tuple(self._reference(r.path, r.keep) for r in case.references)
        return Shot(case, seed, self.cut(whole, None), whole, references)


def _kept(path: Path, version: str) -> pd.DataFrame:
    if not path.exists():
        return pd.DataFrame(columns=COLUMNS)
    kept = pd.read_csv(path, dtype={"case": str, "group": str, "picture": str, "version": str})
    return kept[kept["version"] == version]


def _save(path: Path, rows: pd.DataFrame) -> None:
    buffer = io.StringIO()
    rows.to_csv(buffer, index=False)
    write_whole(path, buffer.getvalue().encode())


def _batches(jobs: list[tuple[Case, int, str]]) -> Iterator[list[tuple[Case, int, str]]]:
    for start in range(0, len(jobs), BATCH):
        yield jobs[start : start + BATCH]


def score(
    cases: Sequence[Case], seeds: Sequence[int], out: Path, scorers: Sequence[Scorer], cut: Cut, cut_name: str
) -> None:
    """Score every picture that was drawn and is not scored yet; results in `scores/SCORER.csv`."""
    drawn = [
        (case, seed, sha256_of(path)[:16])
        for case in cases
        for seed in seeds
        if (path := picture_path(out, case.id, seed)).exists()
    ]
    shots = Shots(out, cut)
    for scorer in scorers:
        path = out / SCORES / f"{scorer.name}.csv"
        version = f"{scorer.version}/{cut_name}"
        wanted = {(case.id, seed): picture for case, seed, picture in drawn}
        rows = _kept(path, version)
        keys = list(zip(rows["case"], rows["seed"], strict=True))
        current = [wanted.get(key) == picture for key, picture in zip(keys, rows["picture"], strict=True)]
        rows = rows[current]
        known = {key for key, good in zip(keys, current, strict=True) if good}
        todo = [job for job in drawn if (job[0].id, job[1]) not in known]
        fresh: list[dict] = []
        saved = time.monotonic()
        with tqdm(total=len(drawn), initial=len(drawn) - len(todo), desc=scorer.name, unit="picture") as bar:
            for batch in _batches(todo):
                numbers = scorer.score([shots.of(case, seed) for case, seed, _ in batch])
                for (case, seed, picture), found in zip(batch, numbers, strict=True):
                    fresh += [
                        dict(zip(COLUMNS, (case.id, case.group, seed, metric, value, picture, version), strict=True))
                        for metric, value in found.items()
                    ]
                bar.update(len(batch))
                if time.monotonic() - saved > SAVE_EVERY:
                    _save(path, pd.concat([rows, pd.DataFrame(fresh, columns=COLUMNS)]))
                    saved = time.monotonic()
        _save(path, pd.concat([rows, pd.DataFrame(fresh, columns=COLUMNS)]) if fresh else rows)


def read_scores(out: Path) -> pd.DataFrame:
    """Every score of a run, a row a picture and metric: case, group, seed, metric, value.

    Raises:
        ValueError: nothing was scored.
    """
    files = sorted((out / SCORES).glob("*.csv"))
    if not files:
        raise ValueError(f"{out.name} has no scores; give --scorer NAME=PATH.")
    tables = [pd.read_csv(file, dtype={"case": str, "group": str}) for file in files]
    return pd.concat([t for t in tables if len(t)] or tables[:1])[["case", "group", "seed", "metric", "value"]]

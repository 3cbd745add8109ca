"""Steps of a check: each is kept when it is done, fails alone, and is shown on the page in its place."""

from __future__ import annotations

import json
import re
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image
from tqdm import tqdm

from ..measure.client import PromptError, ServerLost
from ..measure.files import Scrubber, write_json
from ..measure.page import BAD, GOOD, NOTE, SKIPPED, Finding, Section, show_picture

DONE, FAILED, LEFT_OUT = "done", "failed", "skipped"


class Skip(Exception):
    """A step cannot be taken here; its text says why and what would make it possible."""


@dataclass
class Result:
    """What a step found, as plain values.

    Attributes:
        findings: (kind, text) pairs.
        facts: what later steps build on, and numbers for `report.json`.
        tables: rows by title, each row a dict.
        pictures: (file below the output folder, caption).
        details: long text.
    """

    status: str = DONE
    findings: list[tuple[str, str]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    pictures: list[tuple[str, str]] = field(default_factory=list)
    details: str = ""

    def good(self, text: str) -> None:
        self.findings.append((GOOD, text))

    def fault(self, text: str) -> None:
        self.findings.append((BAD, text))

    def note(self, text: str) -> None:
        self.findings.append((NOTE, text))

    def skipped(self, text: str) -> None:
        self.findings.append((SKIPPED, text))


@dataclass(frozen=True)
class Step:
    """A step: `name` of its file, `title` on the page, `group` it is shown in, and what it does.

    Attributes:
        depends: changes when the step must be taken again (files' sizes, settings).
        keep: whether a later run may read what this one found.
    """

    name: str
    title: str
    group: str
    take: Callable[[Results], Result]
    depends: Any = None
    keep: bool = True


Results = dict[str, Result]
"""What was found so far, by step."""


def _path(out: Path, step: Step) -> Path:
    return out / "steps" / f"{re.sub(r'[^A-Za-z0-9.-]+', '_', step.name)}.json"


def _kept(path: Path, depends: Any) -> Result | None:
    """A finished result of an earlier run; failed and skipped steps are taken again."""
    if not path.exists():
        return None
    held = json.loads(path.read_text(encoding="utf-8"))
    same = json.dumps(held.pop("depends"), sort_keys=True) == json.dumps(depends, sort_keys=True, default=str)
    return Result(**held) if same and held["status"] == DONE else None


def _taken(step: Step, results: Results, scrub: Scrubber) -> Result:
    try:
        return step.take(results)
    except Skip as why:
        return Result(LEFT_OUT, [(SKIPPED, str(why))])
    except (ValueError, PromptError, ServerLost, OSError) as error:
        return Result(FAILED, [(BAD, scrub.text(str(error)))])
    except Exception as error:
        # A defect of ours or of a library must not cost the other steps; it is shown with where it happened.
        return Result(FAILED, [(BAD, f"{type(error).__name__}: {error}")], details=traceback.format_exc())


def take_all(steps: Sequence[Step], results: Results, out: Path, scrub: Scrubber) -> None:
    """Take the steps in order and put what they found into `results`; what an earlier run finished is read instead."""
    with tqdm(steps, unit="step") as bar:
        for step in bar:
            bar.set_description(step.title[:40])
            path = _path(out, step)
            depends = json.loads(json.dumps(step.depends, default=str))
            result = _kept(path, depends) if step.keep else None
            if result is None:
                result = _taken(step, results, scrub)
                write_json(path, scrub({"depends": depends, **asdict(result)}))
            results[step.name] = result


def section_of(title: str, steps: Sequence[Step], results: Results, out: Path) -> Section:
    """One section of the page for the steps of a group."""
    section = Section(title, findings=[], tables={}, pictures=[])
    details = []
    for step in steps:
        result = results[step.name]
        prefix = f"{step.title}: " if len(steps) > 1 else ""
        section.findings += [Finding(kind, prefix + text) for kind, text in result.findings]
        section.tables |= {
            f"{prefix}{name}".removesuffix(": "): pd.DataFrame(rows)
            .set_index(next(iter(rows[0])))
            .replace({None: float("nan")})
            for name, rows in result.tables.items()
            if rows
        }
        for file, caption in result.pictures:
            with Image.open(out / file) as picture:
                section.pictures.append(show_picture(picture, caption))
        if result.details:
            details.append(result.details)
    section.details = "\n".join(details)
    return section

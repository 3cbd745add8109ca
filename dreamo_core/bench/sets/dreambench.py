"""DreamBench (Ruiz et al. 2023, "DreamBooth"): 30 subjects with 25 prompts each; and pairs of its subjects."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..case import IMAGE, TEXT, Benchmark, Case, Data, Reference
from .reading import identifier, mask_beside, pictures_of, with_placeholders

LIVE = ("cat", "dog")
"""Classes with the prompts for live subjects; all others are objects."""

PAIR_SEED = 0

DATA = Data(
    where="https://github.com/google/dreambooth, folder dataset",
    licence="a licence for each picture, in dataset/references_and_licenses.txt (most are from Unsplash)",
    known_from="the data set's own README",
    layout=(
        "prompts_and_classes.txt",
        "SUBJECT/00.jpg … (4 to 6 pictures; the first by name is the reference)",
        "masks/SUBJECT.png (optional: white where the subject is in that first picture)",
    ),
)


@dataclass(frozen=True)
class Subject:
    """A subject: `name` of its folder, the class that prompts call it by, and its reference."""

    name: str
    kind: str
    reference: Reference


@dataclass(frozen=True)
class Prompts:
    """The two lists of prompts, with `{}` where the subject stands (its article is in the prompt)."""

    objects: tuple[str, ...]
    live: tuple[str, ...]

    def of(self, kind: str) -> tuple[str, ...]:
        return self.live if kind in LIVE else self.objects


def read_prompts(path: Path) -> tuple[dict[str, str], Prompts]:
    """Class by subject, and prompts, from `prompts_and_classes.txt` as published.

    The place of DreamBooth's rare token is left out: nothing here is tuned to one.

    Raises:
        ValueError: no such file, or another layout.
    """
    if not path.is_file():
        raise ValueError(f"There is no {path.name} in {path.parent}; take the folder dataset of {DATA.where}.")
    text = path.read_text(encoding="utf-8")
    classes = dict(re.findall(r"^(\w+),([\w ]+)$", text, re.MULTILINE))
    classes.pop("subject_name", None)
    lists = [
        tuple(prompt.replace("{0} ", "").replace("{1}", "{}") for prompt in re.findall(r"'(.+?)'\.format", part))
        for part in text.split("prompt_list = [")[1:]
    ]
    if not classes or len(lists) != 2 or not all(lists):
        raise ValueError(f"{path.name} does not look as published: expected classes and two lists of prompts.")
    return classes, Prompts(*lists)


def read_subjects(root: Path) -> tuple[list[Subject], Prompts]:
    """All subjects of the folder that are named in its list of classes.

    Raises:
        ValueError: the list, or all subjects of it, are missing.
    """
    classes, prompts = read_prompts(root / "prompts_and_classes.txt")
    subjects = []
    for name, kind in classes.items():
        if (root / name).is_dir():
            first = pictures_of(root / name)[0]
            subjects.append(Subject(name, kind, Reference(first, keep=mask_beside(Path(name), root / "masks"))))
    if not subjects:
        raise ValueError(f"None of the subjects of prompts_and_classes.txt has a folder in {root}.")
    return subjects, prompts


def single_cases(root: Path) -> list[Case]:
    subjects, prompts = read_subjects(root)
    return [
        Case(identifier(s.name, n), text, text, (s.reference,), s.name)
        for s in subjects
        for n, text in enumerate(prompt.format(s.kind) for prompt in prompts.of(s.kind))
    ]


def pairs_of(subjects: list[Subject], count: int) -> list[tuple[Subject, Subject]]:
    """Different random pairs, always the same; fewer where there are not so many."""
    every = [(a, b) for n, a in enumerate(subjects) for b in subjects[n + 1 :]]
    order = np.random.default_rng(PAIR_SEED).permutation(len(every))
    return [every[n] for n in order[:count]]


def pair_text(prompt: str, kinds: Sequence[str], placeholders: bool) -> str:
    """A prompt about one subject, about several: "a red {}" with dog and can is "a red dog and a red can"."""
    adjective, rest = re.fullmatch(r"a (.*?)\{\}(.*)", prompt).groups()
    words = [f"a {adjective}{kind}" for kind in kinds]
    return " and ".join(with_placeholders(words) if placeholders else words) + rest


def pair_cases(root: Path) -> list[Case]:
    subjects, prompts = read_subjects(root)
    cases = []
    for pair in pairs_of(subjects, 20):
        names, kinds = [s.name for s in pair], [s.kind for s in pair]
        references = tuple(s.reference for s in pair)
        for n, prompt in enumerate(prompts.objects):
            named, plain = (pair_text(prompt, kinds, placeholders) for placeholders in (True, False))
            cases.append(Case(identifier(*names, n), named, plain, references, "+".join(names)))
    return cases


def realcustom_cases(root: Path) -> list[Case]:
    """Likeness on "a photo of a CLASS", text on the 25 prompts (RealCustom++, section IV)."""
    subjects, prompts = read_subjects(root)
    cases = []
    for s in subjects:
        photo = f"a photo of a {s.kind}"
        cases.append(Case(identifier(s.name, "photo"), photo, photo, (s.reference,), s.name, scored=frozenset({IMAGE})))
        for n, prompt in enumerate(prompts.of(s.kind)):
            text = prompt.format(s.kind)
            cases.append(Case(identifier(s.name, n), text, text, (s.reference,), s.name, scored=frozenset({TEXT})))
    return cases


def realcustom_pair_cases(root: Path) -> list[Case]:
    """30 pairs, each once: "a photo of a CLASS and a CLASS"."""
    subjects, _ = read_subjects(root)
    cases = []
    for pair in pairs_of(subjects, 30):
        names, kinds = [s.name for s in pair], [s.kind for s in pair]
        named, plain = (f"a photo of {pair_text('a {}', kinds, placeholders)}" for placeholders in (True, False))
        references = tuple(s.reference for s in pair)
        cases.append(Case(identifier(*names), named, plain, references, "+".join(names)))
    return cases


SINGLE = Benchmark(
    "dreambench", "DreamBench, single subject (DreamO, Table 1)", DATA, single_cases,
    seeds=4, expected={"cases": 750, "groups": 30}, cut="background",
    notes=("The reference is the first picture of each subject; the paper does not say which it took.",),
)  # fmt: skip

PAIRS = Benchmark(
    "dreambench_pairs", "DreamBench, two subjects (DreamO, Tables 1 and 5)", DATA, pair_cases,
    seeds=4, expected={"cases": 500, "groups": 20}, cut="background",
    notes=(
        f"The paper's 20 random pairs are not published; ours are drawn with seed {PAIR_SEED}.",
        "The 25 prompts are those for objects, with both subjects named.",
    ),
)  # fmt: skip

REALCUSTOM = Benchmark(
    "realcustom", "RealCustom++, single subject (Tables 1 to 5)", DATA, realcustom_cases,
    seeds=4, expected={"cases": 780, "groups": 30}, cut="background",
    notes=(
        "DreamBench only: the paper's harder open-domain pictures are not published.",
        "ImageReward is not scored: it is in none of the libraries used here.",
    ),
)  # fmt: skip

REALCUSTOM_PAIRS = Benchmark(
    "realcustom_pairs", "RealCustom++, two subjects (30 cases)", DATA, realcustom_pair_cases,
    seeds=4, expected={"cases": 30, "groups": 30}, cut="background",
    notes=(f"The paper's 30 cases are not published; ours are pairs of DreamBench drawn with seed {PAIR_SEED}.",),
)  # fmt: skip

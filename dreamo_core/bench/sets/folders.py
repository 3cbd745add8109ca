"""Data sets that are a folder of pictures and a list of prompts: identity, try-on, style, and USO-Bench."""

from __future__ import annotations

from pathlib import Path

from ...text.style import with_style_trigger
from ..case import Benchmark, Case, Data, Reference
from .reading import identifier, mask_beside, pictures_of, prompts_of

OWN_PROMPTS = "The paper does not print its prompts: prompts.txt holds yours, so its text scores compare only roughly."


def _every_prompt(root: Path, folder: str, task: str, prompts: int, limit: int | None = None) -> list[Case]:
    """Every picture of a folder with every line of prompts.txt."""
    texts = prompts_of(root / "prompts.txt", prompts)
    cases = []
    for picture in pictures_of(root / folder)[:limit]:
        keep = mask_beside(picture, root / f"{folder}-mask")
        for n, text in enumerate(texts):
            prompt = with_style_trigger(text) if task == "style" else text
            cases.append(
                Case(identifier(picture.stem, n), prompt, text, (Reference(picture, task, keep),), picture.stem)
            )
    return cases


def identity_cases(root: Path) -> list[Case]:
    return _every_prompt(root, "faces", "identity", 9)


def try_on_cases(root: Path) -> list[Case]:
    return _every_prompt(root, "cloth", "try-on", 10, limit=300)


def style_cases(root: Path) -> list[Case]:
    return _every_prompt(root, "styles", "style", 24)


IDENTITY = Benchmark(
    "unsplash50", "Unsplash-50 identity (DreamO, Table 3)",
    Data(
        "portraits from Unsplash; no address of the set as such is known to us",
        "the Unsplash licence, by the set's name",
        "the DreamO paper names it; that is all we know",
        ("faces/NAME.jpg (50 portraits)", "prompts.txt (9 lines)"),
    ),
    identity_cases, seeds=1, expected={"cases": 450, "groups": 50}, notes=(OWN_PROMPTS,),
)  # fmt: skip

TRY_ON = Benchmark(
    "viton_hd", "VITON-HD try-on (DreamO, Table 4)",
    Data(
        "https://github.com/shadow2496/VITON-HD links the download",
        "CC BY-NC 4.0; for research only",
        "the data set's own README",
        (
            "cloth/NAME.jpg (the test set's folder; the first 300 by name are used)",
            "cloth-mask/NAME.jpg (the test set's folder)",
            "prompts.txt (10 lines)",
        ),
    ),
    try_on_cases, seeds=1, expected={"cases": 3000, "groups": 300}, cut="garment",
    notes=(OWN_PROMPTS, "The paper's choice of 300 garments is not published; ours are the first by name."),
)  # fmt: skip

STYLE = Benchmark(
    "style", "Style, 249 pictures × 24 prompts (DreamO, Table 2)",
    Data(
        "not published as far as we know",
        "unknown",
        "the DreamO paper gives the numbers of pictures and prompts only",
        ("styles/NAME.jpg (249 pictures)", "prompts.txt (24 lines)"),
    ),
    style_cases, seeds=1, expected={"cases": 5976, "groups": 249}, notes=(OWN_PROMPTS,),
)  # fmt: skip

USO_DATA = Data(
    "described in the USO paper; no address of the set is known to us",
    "unknown",
    "the USO paper (arXiv 2508.18966)",
    (
        "content/NAME.jpg (50 pictures)",
        "style/NAME.jpg (50 pictures)",
        "subject_prompts.txt (30 lines)",
        "style_prompts.txt (30 lines)",
    ),
)


def _uso(root: Path, folder: str, task: str, file: str) -> list[Case]:
    return [
        Case(identifier(folder, picture.stem, n), text, text, (Reference(picture, task),), picture.stem)
        for picture in pictures_of(root / folder)
        for n, text in enumerate(prompts_of(root / file, 30))
    ]


def uso_subject_cases(root: Path) -> list[Case]:
    return _uso(root, "content", "subject", "subject_prompts.txt")


def uso_style_cases(root: Path) -> list[Case]:
    return _uso(root, "style", "style", "style_prompts.txt")


def uso_joint_cases(root: Path) -> list[Case]:
    """Every content with every style; the subject prompts in turn."""
    prompts = prompts_of(root / "subject_prompts.txt", 30)
    cases = []
    for c, content in enumerate(pictures_of(root / "content")):
        for s, style in enumerate(pictures_of(root / "style")):
            text = prompts[(c + s) % len(prompts)]
            references = (Reference(content), Reference(style, "style"))
            cases.append(Case(identifier("joint", content.stem, style.stem), text, text, references, content.stem))
    return cases


USO_SUBJECT = Benchmark(
    "uso_subject", "USO-Bench, subject", USO_DATA, uso_subject_cases,
    seeds=1, expected={"cases": 1500, "groups": 50},
    notes=("How many pictures a prompt the paper draws is not known to us: one.",),
)  # fmt: skip
USO_STYLE = Benchmark(
    "uso_style", "USO-Bench, style", USO_DATA, uso_style_cases,
    seeds=1, expected={"cases": 1500, "groups": 50},
    notes=("How many pictures a prompt the paper draws is not known to us: one.",),
)  # fmt: skip
USO_JOINT = Benchmark(
    "uso_joint", "USO-Bench, subject and style", USO_DATA, uso_joint_cases,
    seeds=1, expected={"cases": 2500, "groups": 50},
    notes=("Which prompt goes with which pair is not known to us: the subject prompts in turn.",),
)  # fmt: skip

"""python -m dreamo_core.check COMFYUI_FOLDER [--out DIR] [--server URL] …"""

from __future__ import annotations

import argparse
import functools
import sys
from dataclasses import replace
from pathlib import Path

from ..checkpoint.presets import PRESETS, TURBO
from ..measure.client import ComfyClient
from ..measure.files import Scrubber, write_json, write_whole
from ..measure.graphs import Setting
from ..measure.machine import describe_client
from ..measure.page import BAD, Finding, Section, render
from . import costs, others
from .drawing import Studio, samples_of, variants, workflow_files
from .files import (
    SUFFIXES,
    find_role,
    hash_file,
    hash_table,
    inspect_file,
    model_files,
    model_folders,
    shown,
    stamp,
    survey,
)
from .host_models import read_loaders
from .steps import DONE, FAILED, LEFT_OUT, Results, Step, section_of, take_all
from .tokens import compare_tokens

FILES, WEIGHTS, TEXT, SERVER, GRAPHS = "Files", "Hashes", "Token ids", "Server", "Shipped graphs"
SAMPLES, SETTINGS, NUMBERS, OTHERS = "Reference pictures", "Settings at full size", "Numbers", "Other implementations"
GROUPS = ("Summary", FILES, WEIGHTS, TEXT, SERVER, SAMPLES, GRAPHS, SETTINGS, NUMBERS, OTHERS)


def _file_steps(args: argparse.Namespace) -> list[Step]:
    folders = model_folders(args.comfyui, args.models)
    files = model_files(folders)
    steps = []
    for path in files:
        if path.suffix.lower() in SUFFIXES:
            place = shown(path, folders)
            steps.append(
                Step(f"file {place}", place, FILES, lambda _, p=path, s=place: inspect_file(p, s), stamp(path))
            )
            if args.hash and find_role(path.name) is not None:
                steps.append(
                    Step(f"hash {place}", place, WEIGHTS, lambda _, p=path, s=place: hash_file(p, s), stamp(path))
                )
    if args.hash:
        steps.append(Step("hashes", "All hashes", WEIGHTS, hash_table, keep=False))
    everything = [[shown(path, folders), *stamp(path)] for path in files]
    steps.append(Step("survey", "All together", FILES, lambda found: survey(files, folders, found), everything))
    steps.append(Step("tokens", "Token ids", TEXT, lambda _: compare_tokens(args.comfyui), keep=False))
    return steps


def stack_of(results: Results) -> tuple[dict, int]:
    """Inputs of DreamO Model Stack for which all files are there, and how many steps go with them; v1.1 before v1."""
    present = results["survey"].facts.get("present", {})
    turbo = TURBO in present
    whole = (name for name, strengths in PRESETS.items() if set(strengths) <= set(present))
    preset = next(whole, next(iter(PRESETS)))
    return {"preset": preset, "use_turbo": turbo}, 12 if turbo else 25


def _studio(args: argparse.Namespace, results: Results) -> Studio:
    stack, steps = stack_of(results)
    setting = Setting(
        stack, steps=args.steps or steps, guidance=4.5 if stack["preset"] == "v1.1" else 3.5, width=args.size,
        height=args.size, resolution=args.resolution,
    )  # fmt: skip
    small = replace(setting, steps=args.small_steps, width=args.small_size, height=args.small_size)
    loaders = read_loaders(args.loaders) if args.loaders else None
    return Studio(ComfyClient(args.server), loaders, setting, small, args.out, args.references)


def _server_steps(args: argparse.Namespace, studio: Studio) -> list[Step]:
    paths, seeds = workflow_files(args.graphs), range(1, args.seeds + 1)
    # Other settings or another server: drawn again.
    depends = [args.server, vars(studio.setting), vars(studio.small), studio.loaders and vars(studio.loaders)]
    steps = [Step("server", "Server", SERVER, studio.look, keep=False)]
    steps += [
        Step(f"sample {file}", file, SAMPLES, lambda found, f=file: studio.sample(found, f), depends)
        for file in samples_of(paths)
    ]
    steps += [
        Step(f"graph {path.stem}", path.stem, GRAPHS, lambda found, p=path: studio.shipped(found, p), depends)
        for path in paths
    ]
    if not args.small_only:
        steps += [
            Step(f"{name}, seed {seed}", f"{name}, seed {seed}", SETTINGS,
                 lambda found, n=name, s=seed: studio.variant(found, n, s), depends)
            for name in variants(studio.setting)
            for seed in seeds
        ]  # fmt: skip
        for title, table in (
            ("Cost", costs.cost_table), ("Errors beside full references", costs.error_table),
            ("Regions beside masks in the picture", costs.region_table), ("Contact sheet", costs.contact_sheet),
        ):  # fmt: skip
            take = functools.partial(table, studio, seeds=seeds)
            # They follow from the pictures, which may have been drawn anew.
            steps.append(Step(title.lower(), title, NUMBERS, take, keep=False))
        steps.append(
            Step("official", "Official node", OTHERS, lambda found: others.official_node(studio, found, seeds), depends)
        )
        steps.append(
            Step(
                "pipeline", "Released pipeline", OTHERS,
                lambda found: others.released_pipeline(studio, found, seeds, args.pipeline, args.pipeline_python),
                [depends, args.pipeline],
            )
        )  # fmt: skip
    return steps


def write_report(steps: list[Step], results: Results, out: Path, scrub: Scrubber) -> list[str]:
    """`report.html` and `report.json`; returns the faults."""
    faults = [f"{step.title}: {text}" for step in steps for kind, text in results[step.name].findings if kind == BAD]
    counts = {status: sum(results[s.name].status == status for s in steps) for status in (DONE, FAILED, LEFT_OUT)}
    machine = describe_client() | results["server"].facts.get("machine", {})
    lead = f"{counts[DONE]} steps done, {counts[FAILED]} failed, {counts[LEFT_OUT]} skipped; {len(faults)} faults"
    sections = [Section("Summary", facts=machine, findings=[Finding(BAD, text) for text in faults])]
    for group in GROUPS[1:]:
        members = [step for step in steps if step.group == group]
        if members:
            sections.append(section_of(group, members, results, out))
    page = render("DreamO Routed: check of a ComfyUI folder", lead, sections)
    write_whole(out / "report.html", scrub.text(page).encode())
    found = {
        step.name: {"status": results[step.name].status, "findings": results[step.name].findings,
                    "facts": results[step.name].facts, "tables": results[step.name].tables}
        for step in steps
    }  # fmt: skip
    write_json(out / "report.json", scrub({"machine": machine, "counts": counts, "faults": faults, "steps": found}))
    return faults


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dreamo_core.check",
        description="Whether everything holds on your weights and your machine, and its costs. Nothing is uploaded.",
    )
    parser.add_argument("comfyui", type=Path, help="your ComfyUI folder")
    parser.add_argument("--out", type=Path, default=Path("dreamo_check"), help="report and pictures; the same resumes")
    parser.add_argument("--server", default="http://127.0.0.1:8188", help="your running ComfyUI")
    parser.add_argument("--models", type=Path, action="append", default=[], help="more folders with models")
    parser.add_argument("--references", type=Path, help="your own pictures, under the names that the graphs load")
    parser.add_argument("--loaders", type=Path, help="JSON: other loaders, such as for GGUF (see docs/measuring.md)")
    parser.add_argument("--graphs", nargs="*", help="only these shipped graphs; none after it: no graph")
    parser.add_argument("--seeds", type=int, default=2, help="of each setting")
    parser.add_argument("--steps", type=int, help="at full size; 12 with turbo, else 25")
    parser.add_argument("--size", type=int, default=1024, help="side of the full pictures")
    parser.add_argument("--resolution", type=int, default=512, help="of references")
    parser.add_argument("--small-steps", type=int, default=2, help="of the shipped graphs' try")
    parser.add_argument("--small-size", type=int, default=512)
    parser.add_argument("--small-only", action="store_true", help="not the settings at full size")
    parser.add_argument("--no-hash", dest="hash", action="store_false", help="skip SHA-256 (minutes on large files)")
    parser.add_argument("--pipeline", type=Path, help="a clone of bytedance/DreamO, to run beside")
    parser.add_argument("--pipeline-python", default=sys.executable, help="the Python that has its requirements")
    return parser


def main(argv: list[str]) -> int:
    args = _parser().parse_args(argv)
    args.out = args.out.absolute()
    named = {"<ComfyUI>": args.comfyui, "<report>": args.out}
    named |= {f"<models {n}>": folder for n, folder in enumerate(args.models, start=1)}
    named |= {"<DreamO>": args.pipeline} if args.pipeline else {}
    scrub, results = Scrubber(named), {}
    try:
        steps = _file_steps(args)
        take_all(steps, results, args.out, scrub)
        studio = _studio(args, results)
        more = _server_steps(args, studio)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    take_all(more, results, args.out, scrub)
    faults = write_report([*steps, *more], results, args.out, scrub)
    for fault in faults:
        print(scrub.text(fault))
    print(f"{len(faults)} faults\n{args.out / 'report.html'}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

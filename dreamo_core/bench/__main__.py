"""python -m dreamo_core.bench list | NAME --data DIR --out DIR … | compare A B --out DIR"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..measure.client import ComfyClient, PromptError, ServerLost
from ..measure.files import Scrubber
from ..measure.graphs import Setting, loaded
from ..measure.machine import describe_client, describe_server
from . import manifest, tables
from .case import Case
from .cut import make_cut
from .draw import claim_run, draw
from .graph import Graph, OwnGraph, find_graph, parse_value
from .registry import BENCHMARKS, PLUGINS, SCORERS, find_benchmark, make_scorer
from .report import compare_report, run_report
from .score import read_scores, score

SERVER = "http://127.0.0.1:8188"


def _list() -> int:
    for name in (*BENCHMARKS, *PLUGINS):
        benchmark = find_benchmark(name)
        counts = ", ".join(f"{count} {kind}" for kind, count in benchmark.expected.items())
        print(f"\n{name}: {benchmark.title}")
        print(f"  {counts}, {benchmark.seeds} seeds; scored: {benchmark.cut}")
        print(f"  data: {benchmark.data.where}\n  licence: {benchmark.data.licence}")
        print(f"  known from: {benchmark.data.known_from}")
        for line in benchmark.data.layout:
            print(f"    DATA/{line}")
        for note in benchmark.notes:
            print(f"  note: {note}")
    print(f"\nscorers: {', '.join(SCORERS)}, or package.module:attribute")
    return 0


def _graph(args: argparse.Namespace) -> Graph:
    changes = {}
    for change in args.set:
        place, separator, value = change.partition("=")
        if not separator:
            raise ValueError(f"--set takes NODE.INPUT=VALUE, not {change!r}.")
        changes[place] = parse_value(value)
    placeholders = not args.no_placeholders
    if args.graph:
        return find_graph(args.graph, changes, placeholders)
    if changes:
        raise ValueError("--set changes a graph; give its file with --graph.")
    setting = Setting(
        {"preset": args.preset, "use_turbo": not args.no_turbo}, args.speed, {} if args.routed else None, args.steps,
        args.guidance, args.width, args.height,
    )  # fmt: skip
    return OwnGraph(loaded(args.unet, args.clip_l, args.t5, args.vae), setting, placeholders)


def _chosen(cases: list[Case], limit: int | None) -> list[Case]:
    """The first cases of every group in turn, so that a short run sees all subjects."""
    if limit is None or limit >= len(cases):
        return cases
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.group, []).append(case)
    longest = max(map(len, groups.values()))
    turns = [group[n] for n in range(longest) for group in groups.values() if n < len(group)]
    return turns[:limit]


def _run(args: argparse.Namespace) -> int:
    benchmark = find_benchmark(args.name)
    cases = benchmark.read(args.data)
    hashes = manifest.manifest_of(cases, args.data)
    if args.manifest and (changes := manifest.differences(manifest.read_manifest(args.manifest), hashes)):
        raise ValueError(f"The data are not those of {args.manifest.name}: {'; '.join(changes)}.")
    if broken := manifest.unreadable(cases, args.data):
        raise ValueError(f"{len(broken)} files of the data are no pictures: {'; '.join(broken[:5])}")
    args.out.mkdir(parents=True, exist_ok=True)
    manifest.claim(args.out / "manifest.json", hashes)
    cases = _chosen(cases, args.limit)
    seeds = range(args.seed, args.seed + (args.seeds or benchmark.seeds))
    # A wrong path must not show only after a night of drawing.
    scorers = [make_scorer(spec) for spec in args.scorer]
    cut, cut_note = make_cut(args.cut or benchmark.cut) if scorers else (None, "")
    facts, notes, lost = describe_client(), [cut_note] if cut_note else [], []
    if not args.no_drawing:
        graph = _graph(args)
        claim_run(args.out, benchmark.name, graph)
        servers = args.server or [SERVER]
        facts |= describe_server(ComfyClient(servers[0]).system_stats())
        outcome = draw(cases, list(seeds), graph, args.out, servers, args.patience)
        lost = outcome.left
        for number, count in enumerate(outcome.by_server.values(), start=1):
            print(f"server {number}: {count} pictures")
    if scorers:
        score(cases, list(seeds), args.out, scorers, cut, args.cut or benchmark.cut)
    has_scores = any((args.out / "scores").glob("*.csv"))
    scores = read_scores(args.out) if has_scores else None
    scrub = Scrubber({"<data>": args.data, "<out>": args.out, **_scorer_paths(args.scorer)})
    run_report(benchmark, cases, list(seeds), args.out, scores, facts, notes, scrub)
    if scores is not None and len(scores):
        print(tables.means(scores).to_string(float_format=lambda value: f"{value:.4f}"))
    print(f"{args.out / 'report.html'}")
    if lost:
        print(f"error: no server is left; {len(lost)} pictures are missing. Run the same command again to go on.",
              file=sys.stderr)  # fmt: skip
        return 1
    return 0


def _scorer_paths(specs: Sequence[str]) -> dict[str, Path]:
    paths = [Path(spec.partition("=")[2]) for spec in specs]
    return {f"<{path.name}>": path for path in paths if path.is_absolute()}


def _compare(args: argparse.Namespace) -> int:
    a, b = args.runs
    cases = {}
    if args.data:
        cases = {case.id: case for case in find_benchmark(args.benchmark).read(args.data)}
    wanted, have = (manifest.read_manifest(run / "manifest.json") for run in (a, b))
    if changes := manifest.differences(wanted, have):
        raise ValueError(f"The two runs were made with other data: {'; '.join(changes)}.")
    both = tables.joined(read_scores(a), read_scores(b))
    names = tuple(args.names or (a.name, b.name))
    table = compare_report(names, both, (a, b), cases, args.out, Scrubber({"A": a, "B": b, "<out>": args.out}))
    print(f"A: {names[0]}, B: {names[1]}")
    print(table.to_string(float_format=lambda value: f"{value:.4f}"))
    print(args.out / "report.html")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dreamo_core.bench", description="The papers' benchmarks, drawn by your own running ComfyUI."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("list", help="benchmarks: where their data are, how they are laid out; scorers")
    compare = commands.add_parser("compare", help="a paired test of two runs")
    compare.add_argument("runs", type=Path, nargs=2, metavar=("A", "B"), help="folders of two runs")
    compare.add_argument("--names", nargs=2, help="what to call them")
    compare.add_argument("--out", type=Path, required=True)
    compare.add_argument("--data", type=Path, help="of the benchmark, to show prompts")
    compare.add_argument("--benchmark", help="with --data: its name")
    run = commands.add_parser("run", help="a benchmark; `run` may be left out")
    run.add_argument("name", help="one of `list`, or package.module:attribute")
    run.add_argument("--data", type=Path, required=True, help="folder of the data set")
    run.add_argument("--out", type=Path, required=True, help="folder of this run; the same one resumes it")
    run.add_argument("--manifest", type=Path, help="manifest.json of another run: the data must be the same")
    run.add_argument("--limit", type=int, help="draw only so many cases, of all subjects in turn")
    run.add_argument("--seeds", type=int, help="pictures a case; the paper's number if left out")
    run.add_argument("--seed", type=int, default=0, help="the first seed")
    run.add_argument("--server", action="append", default=[], help=f"address; several for several GPUs ({SERVER})")
    run.add_argument("--patience", type=float, default=60, help="seconds to wait for a server that went away")
    run.add_argument("--no-drawing", action="store_true", help="score what is there, ask no server")
    run.add_argument("--graph", help="a graph with named slots (.json), or package.module:attribute")
    run.add_argument("--set", action="append", default=[], metavar="NODE.INPUT=VALUE", help="change the graph")
    run.add_argument("--no-placeholders", action="store_true", help="prompts in plain words")
    run.add_argument("--scorer", action="append", default=[], metavar="NAME=PATH", help="may be given several times")
    run.add_argument("--cut", help="what is scored: none, background, garment=FOLDER; else as in the paper")
    own = run.add_argument_group("the pack's own graph, without --graph")
    own.add_argument("--preset", default="v1.1", help="of DreamO Model Stack")
    own.add_argument("--no-turbo", action="store_true")
    own.add_argument("--steps", type=int, default=12)
    own.add_argument("--guidance", type=float, default=4.5)
    own.add_argument("--width", type=int, default=1024)
    own.add_argument("--height", type=int, default=1024)
    own.add_argument("--speed", help="preset of DreamO Speed")
    own.add_argument("--routed", action="store_true", help="with DreamO Routing")
    own.add_argument("--unet", default="flux1-dev.safetensors")
    own.add_argument("--clip-l", default="clip_l.safetensors")
    own.add_argument("--t5", default="t5xxl_fp16.safetensors")
    own.add_argument("--vae", default="ae.safetensors")
    return parser


def main(argv: list[str]) -> int:
    if argv and argv[0] not in ("list", "compare", "run", "-h", "--help"):
        argv = ["run", *argv]
    args = _parser().parse_args(argv)
    try:
        return {"list": lambda _: _list(), "compare": _compare, "run": _run}[args.command](args)
    except (ValueError, PromptError, ServerLost, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Benchmarks and scorers by name. Anything else is given as `package.module:attribute`, as plugins are."""

from __future__ import annotations

from ..measure.plugins import find_plugin
from .case import Benchmark
from .scorers.protocol import Scorer
from .sets import dreambench, folders

_OWN = (
    dreambench.SINGLE, dreambench.PAIRS, folders.IDENTITY, folders.TRY_ON, folders.STYLE, folders.USO_SUBJECT,
    folders.USO_STYLE, folders.USO_JOINT, dreambench.REALCUSTOM, dreambench.REALCUSTOM_PAIRS,
)  # fmt: skip
BENCHMARKS: dict[str, Benchmark] = {benchmark.name: benchmark for benchmark in _OWN}

# Elsewhere in this repository, above the core.
PLUGINS = {"mini_world": "minidreamo.benchmark:MINI_WORLD"}

SCORERS = {
    "clip-b32": "dreamo_core.bench.scorers.clip:clip_b32",
    "clip-l14": "dreamo_core.bench.scorers.clip:clip_l14",
    "dino": "dreamo_core.bench.scorers.dino:dino",
    "dinov2": "dreamo_core.bench.scorers.dino:dinov2",
    "csd": "dreamo_core.bench.scorers.csd:csd",
    "face": "dreamo_core.bench.scorers.face:face",
    "mini_world": "minidreamo.benchmark:scorer",
}
"""What makes a scorer of a path: by name, where it is. Only those asked for are imported."""


def find_benchmark(name: str) -> Benchmark:
    """A benchmark by name.

    Raises:
        ValueError: no such.
    """
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    known = ", ".join((*BENCHMARKS, *PLUGINS, "package.module:attribute"))
    found = find_plugin(PLUGINS.get(name, name), "benchmark", f"one of {known}")
    if not isinstance(found, Benchmark):
        raise ValueError(f"{name} is no benchmark but a {type(found).__name__}.")
    return found


def make_scorer(spec: str) -> Scorer:
    """A scorer from `NAME=PATH`: a name of `SCORERS` or `package.module:attribute`, called with the path.

    Raises:
        ValueError: no such, or its files cannot be used.
    """
    name, separator, path = spec.partition("=")
    if not separator:
        raise ValueError(f"Scorers are given as NAME=PATH, for example clip-b32=/models/clip-b32, not {spec!r}.")
    known = ", ".join((*SCORERS, "package.module:attribute"))
    return find_plugin(SCORERS.get(name, name), "scorer", f"one of {known}")(path)

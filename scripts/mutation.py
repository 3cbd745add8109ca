#!/usr/bin/env python3
"""Change the core's most important functions one operator at a time, and see whether the tests notice.

    python3 scripts/host.py exec scripts/mutation.py [NAME...]     all functions, or those whose names contain NAME

The mutants are cosmic-ray's (its operators that stand for a slip: a comparison, a sign, a number, a condition), and
any for all, min for max. Tests are collected once; each mutant runs them in a fork, in which the function's code has
been exchanged, so everybody who has imported it has the mutant. Files are not touched. The last line is the score:
the part of the mutants that some test caught.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import inspect
import os
import signal
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

REPO = Path(__file__).resolve().parent.parent
SECONDS = 60
"""A mutant that keeps its tests busy for longer is caught."""

TARGETS = {
    "sequence.positions:diagonal_offsets": ["sequence/test_positions.py"],
    "sequence.pruning:kept_tokens": ["sequence/test_pruning.py"],
    "sequence.percent:in_range": ["attention/test_strength_and_range.py::test_a_range_has"],
    "sequence.reference:ReferenceConditioning.__eq__": [
        "attention/test_strength_and_range.py::test_conditionings_are_equal"
    ],
    "attention.bias:low_rank_attention": ["attention/test_attention.py"],
    "attention.bias:widened_mask": ["attention/test_strength_and_range.py::test_a_widened"],
    "reuse.policy:step_of": ["reuse/test_store.py::test_step_of"],
    "reuse.policy:refresh_is_due": ["reuse/test_store.py::test_refresh_is_due"],
    "reuse.store:pack": ["reuse/test_store.py::test_fp8", "reuse/test_store.py::test_what_goes_in"],
    "routing.router:steps_done": ["routing/test_routing.py::test_steps_done"],
}
"""Functions of the core, and the tests that are to notice: a file, or the beginning of a test's name in it."""

SLIPS = (
    "ReplaceComparisonOperator_Lt_LtE", "ReplaceComparisonOperator_Lt_GtE", "ReplaceComparisonOperator_LtE_Lt",
    "ReplaceComparisonOperator_LtE_Gt", "ReplaceComparisonOperator_Gt_GtE", "ReplaceComparisonOperator_Gt_LtE",
    "ReplaceComparisonOperator_GtE_Gt", "ReplaceComparisonOperator_GtE_Lt", "ReplaceComparisonOperator_Eq_NotEq",
    "ReplaceComparisonOperator_NotEq_Eq", "ReplaceComparisonOperator_Is_IsNot", "ReplaceComparisonOperator_IsNot_Is",
    "ReplaceBinaryOperator_Add_Sub", "ReplaceBinaryOperator_Sub_Add", "ReplaceBinaryOperator_Mul_Div",
    "ReplaceBinaryOperator_Div_Mul", "ReplaceBinaryOperator_FloorDiv_Mul", "ReplaceUnaryOperator_Delete_USub",
    "ReplaceUnaryOperator_Delete_Not", "AddNot", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr",
    "ReplaceOrWithAnd", "NumberReplacer", "ZeroIterationForLoop",
)  # fmt: skip
SWAPS = {"any": "all", "all": "any", "min": "max", "max": "min", "amin": "amax", "amax": "amin"}


@dataclass(frozen=True)
class Mutant:
    target: str
    what: str
    source: str


def function_of(target: str):
    module, _, path = target.partition(":")
    found = importlib.import_module(f"dreamo_routed.dreamo_core.{module}")
    for part in path.split("."):
        found = getattr(found, part)
    return found


def body_of(source: str) -> int:
    """First line, from 1, behind signature and docstring."""
    statements = ast.parse(source).body[0].body
    first = statements[1] if ast.get_docstring(ast.parse(source).body[0]) and len(statements) > 1 else statements[0]
    return first.lineno


def swapped(source: str) -> Iterator[str]:
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source)):
        name = getattr(node, "func", None)
        name = getattr(name, "id", None) or getattr(name, "attr", None)
        if isinstance(node, ast.Call) and name in SWAPS:
            line = lines[node.func.end_lineno - 1].encode()
            end = node.func.end_col_offset
            changed = (line[: end - len(name)] + SWAPS[name].encode() + line[end:]).decode()
            yield "".join([*lines[: node.func.end_lineno - 1], changed, *lines[node.func.end_lineno :]])


def mutants_of(target: str) -> list[Mutant]:
    source = textwrap.dedent(inspect.getsource(function_of(target)))
    start, lines = body_of(source), source.splitlines()
    changed: list[str] = list(swapped(source))
    for name in operator_names():
        if name.removeprefix("core/") in SLIPS:
            operator, occurrence = get_operator(name)(), 0
            while (mutated := mutate_code(source, operator, occurrence)) is not None:
                changed.append(mutated)
                occurrence += 1
    found = []
    for mutated in dict.fromkeys(changed):
        at = next((n for n, (a, b) in enumerate(zip(lines, mutated.splitlines(), strict=False)) if a != b), None)
        if at is not None and at + 1 >= start:
            found.append(Mutant(target, f"{lines[at].strip()}  →  {mutated.splitlines()[at].strip()}", mutated))
    return found


def exchange(mutant: Mutant) -> None:
    """Put the mutant's code into the function itself."""
    function = function_of(mutant.target)
    scope: dict = {}
    exec(compile("from __future__ import annotations\n" + mutant.source, f"<{mutant.target}>", "exec"),
         function.__globals__, scope)  # fmt: skip
    function.__code__ = scope[function.__name__].__code__


def verdict_in_fork(session: pytest.Session, items: list[pytest.Item], mutant: Mutant | None) -> bool:
    """Whether some test fails with the mutant."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] != 0
    signal.alarm(SECONDS)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1), os.dup2(nowhere.fileno(), 2)
    session.config.pluginmanager.unregister(name="terminalreporter")
    with contextlib.suppress(BaseException):
        if mutant is not None:
            exchange(mutant)
        for n, item in enumerate(items):
            following = items[n + 1] if n + 1 < len(items) else None
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if session.testsfailed:
                break
        os._exit(1 if session.testsfailed else 0)
    os._exit(1)


@dataclass
class Mutation:
    """A pytest plugin: in place of running the tests, run them on every mutant."""

    targets: dict[str, list[str]]
    caught: int = 0
    survivors: list[Mutant] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        for target, files in self.targets.items():
            wanted = [str(REPO / "tests" / file) for file in files]
            items = [i for i in session.items if any(f"{i.path}::{i.name}".startswith(start) for start in wanted)]
            if not items or verdict_in_fork(session, items, None):
                self.broken.append(target)
                continue
            mutants = mutants_of(target)
            surviving = [mutant for mutant in mutants if not verdict_in_fork(session, items, mutant)]
            self.caught += len(mutants) - len(surviving)
            self.survivors += surviving
            print(f"{target}: {len(mutants) - len(surviving)} of {len(mutants)} caught", flush=True)
            for mutant in surviving:
                print(f"    survived: {mutant.what}", flush=True)
        return True

    @property
    def score(self) -> float:
        return self.caught / max(1, self.caught + len(self.survivors))


def main(names: list[str]) -> Mutation:
    chosen = {t: files for t, files in TARGETS.items() if not names or any(name in t for name in names)}
    plugin = Mutation(chosen)
    files = sorted({str(REPO / "tests" / file.split("::")[0]) for tests in chosen.values() for file in tests})
    pytest.main(["-p", "no:cacheprovider", "--rootdir", str(REPO), "-c", str(REPO / "pyproject.toml"), *files],
                plugins=[plugin])  # fmt: skip
    for target in plugin.broken:
        print(f"{target}: its tests are missing or fail without any change")
    print(f"score {plugin.score:.3f}: {plugin.caught} of {plugin.caught + len(plugin.survivors)} mutants caught")
    return plugin


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    result = main(parser.parse_args().names)
    sys.exit(0 if result.score >= 0.9 and not result.broken else 1)

"""What a node checks of its own values, where the host does not.

The host checks no combo of V3 nodes before 0.28, NaN passes every minimum and maximum, and a literal may stand in a
prompt where a link belongs.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

from comfy_api.latest import io

_LISTED_ELSEWHERE = ("sampler_name", "scheduler")
"""Combos that other packs add to; the host's own sampler node names what it does not know."""

_SHOWN = 60
"""Characters of a wrong value that a message repeats."""


def shown(value: Any) -> str:
    """A wrong value for a message: as it is, or its beginning."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text)} characters)"


def _is_file_list(declared: io.Combo.Input) -> bool:
    # Files may have come since the list was made; whoever opens one says what is missing.
    return declared.upload is not None or declared.id.endswith("_name")


def _check(where: str, declared: Any, value: Any) -> None:
    if isinstance(declared, io.Combo.Input):
        if _is_file_list(declared) and not isinstance(value, str):
            raise ValueError(f"{where} must be a file's name, got {shown(value)}.")
        if declared.id in _LISTED_ELSEWHERE or _is_file_list(declared) or value in declared.options:
            return
        raise ValueError(f"{where} must be one of {', '.join(map(str, declared.options))}; got {shown(value)}.")
    if isinstance(declared, io.Float.Input):
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"{where} must be a finite number, got {shown(value)}.")
    elif not isinstance(declared, io.WidgetInput) and isinstance(value, (str, int, float)):
        kind = declared.get_io_type()
        raise ValueError(f"{where} needs {kind} from another node, got {shown(value)}; connect one.")


def checked(execute: Callable[..., Any]) -> Callable[..., Any]:
    """For a node's `execute`: its values are checked against its schema first.

    Raises:
        ValueError: names the node, the input, what was given and what it takes.
    """
    signature = inspect.signature(execute)

    @functools.wraps(execute)
    def run(cls: type[io.ComfyNode], *args: Any, **kwargs: Any) -> Any:
        given = signature.bind(cls, *args, **kwargs).arguments
        more = [name for name, p in signature.parameters.items() if p.kind is p.VAR_KEYWORD]
        given = {**given, **given.get(more[0], {})} if more else given
        schema = cls.define_schema()
        for declared in schema.inputs:
            if given.get(declared.id) is not None:
                _check(f"{schema.display_name}'s {declared.id}", declared, given[declared.id])
        return execute(cls, *args, **kwargs)

    return run

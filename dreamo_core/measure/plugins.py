"""Things given by name on the command line."""

from __future__ import annotations

import pkgutil
from typing import Any


def find_plugin(spec: str, kind: str, known: str = "") -> Any:
    """What `package.module:attribute` names.

    Args:
        kind: what it should be, for the message.
        known: what else could have been given, for the message.

    Raises:
        ValueError: no such.
    """
    if ":" not in spec:
        raise ValueError(f"There is no {kind} {spec!r}; give {known or 'package.module:attribute'}.")
    try:
        return pkgutil.resolve_name(spec)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"The {kind} {spec} cannot be imported: {error}.") from error

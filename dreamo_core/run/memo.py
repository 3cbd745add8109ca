"""What does not change between the steps of a run is made once: positions, embedding rows, one-hot columns."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any


class Memo:
    """A run's tensors by everything they depend on; dropped with the run."""

    def __init__(self) -> None:
        self._made: dict[Hashable, Any] = {}

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The value of that key; made at first use."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def close(self) -> None:
        self._made.clear()

"""State with the lifetime of one sampling run, such as caches and averages over steps.

A run's state is made when sampling starts and dropped when it ends, however it ends. It is reached through that
run's own `transformer_options`, so runs that follow each other or interleave share nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from .keys import RUN_KEY

T = TypeVar("T")


class Run:
    """Holds one object of each kind that takes part in this run.

    Args:
        latent_size: height and width of the whole latent, where it is known; a model call may see a part of it.
    """

    def __init__(self, latent_size: tuple[int, int] | None = None) -> None:
        self.latent_size = latent_size
        self._parts: dict[str, Any] = {}
        self._schedule: tuple[torch.Tensor, list[float]] | None = None
        self._asked: dict[tuple, tuple[list, int]] = {}
        self._said: set[str] = set()

    def part(self, name: str, make: Callable[[], T]) -> T:
        """The run's object of that name; made at first use."""
        if name not in self._parts:
            self._parts[name] = make()
        return self._parts[name]

    def schedule(self, sigmas: torch.Tensor) -> list[float]:
        """The run's noise levels as numbers; read from the device once."""
        if self._schedule is None or self._schedule[0] is not sigmas:
            self._schedule = (sigmas, sigmas.tolist())
        return self._schedule[1]

    def place(self, uuids: list | None) -> int:
        """Which part of the image a model call is for, counted from 0 where the host makes one call of several.

        A wrapper that runs the model tile by tile passes the host's own list of conditionings on to each call; when
        the host itself calls again, for the next step or for another evaluation of this one, it makes a new list. So
        the same list again is another tile, and the n-th tile of every step is one place.
        """
        if uuids is None:
            return 0
        asked, count = self._asked.get(tuple(uuids), (None, -1))
        count = count + 1 if asked is uuids else 0
        self._asked[tuple(uuids)] = (uuids, count)
        return count

    def once(self, message: str) -> bool:
        """Whether this is the first time in the run that anybody asks to say `message`."""
        first = message not in self._said
        self._said.add(message)
        return first

    def close(self) -> None:
        """Drop everything; an object with a `close` method is closed first."""
        for part in self._parts.values():
            if hasattr(part, "close"):
                part.close()
        self._parts.clear()


def outer_sample_wrapper(executor, noise, *args, **kwargs):
    """The wrapper for the host's OUTER_SAMPLE hook: gives the run its `Run`.

    The guider's model options are the host's own copy for this run, so what is put there ends with it.
    """
    options = executor.class_obj.model_options.setdefault("transformer_options", {})
    run = options[RUN_KEY] = Run(tuple(noise.shape[-2:]))
    try:
        return executor(noise, *args, **kwargs)
    finally:
        options.pop(RUN_KEY, None)
        run.close()

"""State with the lifetime of one sampling run, such as caches and averages over steps.

A run's state is made when sampling starts and dropped when it ends, however it ends. It is reached through that
run's own `transformer_options`, so runs that follow each other or interleave share nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

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

    def part(self, name: str, make: Callable[[], T]) -> T:
        """The run's object of that name; made at first use."""
        if name not in self._parts:
            self._parts[name] = make()
        return self._parts[name]

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

"""What a run on the server costs: seconds a step, and the memory it takes at most."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .client import ComfyClient, Event, ServerLost

POLL = 0.1
"""Seconds between two looks at the server's memory."""


@dataclass(frozen=True)
class Cost:
    """What a run took.

    Attributes:
        seconds: from queueing to the last output, loading of models included.
        sampling_seconds: from the sampler's start to its last step; None if nothing reported steps.
        step_seconds: mean time from one step to the next; None with fewer than two steps. The first step is not in it:
            it may load models, and makes what later steps reuse.
        steps: sampling steps that were reported.
        peak_bytes: most memory of the device in use at any look (on a CPU server the computer's), everything on it
            included; what torch holds without using it is not; None if nothing was seen.
    """

    seconds: float
    sampling_seconds: float | None
    step_seconds: float | None
    steps: int
    peak_bytes: int | None


class _MemoryWatch:
    """Looks at the server's memory every `POLL` seconds for as long as the `with` block runs."""

    def __init__(self, client: ComfyClient):
        self.client, self.used = client, []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        # At once, then every `POLL` seconds: a run may be over before the first of them.
        waiting = True
        while waiting:
            try:
                (device, *_) = self.client.system_stats()["devices"]
            except (ServerLost, ValueError):
                # The run itself says so; what was seen until then counts.
                return
            self.used.append(device["vram_total"] - device["vram_free"])
            waiting = not self._done.wait(POLL)

    def __enter__(self) -> _MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._done.set()
        self._thread.join()


def sampling_times(events: Sequence[Event]) -> tuple[float | None, float | None, int]:
    """Of the node that reported the most steps (the sampler): seconds in all, seconds a step, steps."""
    starts: dict[str, float] = {}
    reports: dict[str, list[Event]] = {}
    for event in events:
        if event.steps:
            reports.setdefault(event.node, []).append(event)
        else:
            starts[event.node] = event.at
    steps = max(reports.values(), key=len, default=[])
    if not steps:
        return None, None, 0
    last = steps[-1]
    gaps = [b.at - a.at for a, b in zip(steps, steps[1:], strict=False) if b.step == a.step + 1]
    seconds = last.at - starts[last.node] if last.node in starts else None
    return seconds, statistics.fmean(gaps) if gaps else None, last.steps


def timed_run(client: ComfyClient, prompt: dict[str, Any]) -> tuple[dict[str, Any], Cost]:
    """Run a prompt; its outputs by node, and what it cost.

    Raises:
        PromptError, ServerLost: as `ComfyClient.run`.
    """
    reports: list[Event] = []
    started = time.monotonic()
    with _MemoryWatch(client) as memory:
        outputs = client.run(prompt, reports.append)
    seconds = time.monotonic() - started
    return outputs, Cost(seconds, *sampling_times(reports), max(memory.used, default=None))

"""Many jobs on one or several servers: whatever is done is kept, one that fails does not stop the others."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from tqdm import tqdm

from .client import ComfyClient, PromptError, ServerLost

Key = TypeVar("Key", bound=Hashable)

TRIES = 3
"""A job during which the server was lost so often is held for the cause."""


@dataclass(frozen=True)
class Outcome(Generic[Key]):
    """What became of the jobs.

    Attributes:
        done: number of those that were finished.
        failures: what was said, by job.
        left: jobs that no server was left for.
        by_server: number of finished jobs by address.
    """

    done: int
    failures: dict[Key, str]
    left: list[Key]
    by_server: dict[str, int]


class _Work(Generic[Key]):
    """State that the servers' threads share."""

    def __init__(self, jobs: Sequence[Key], bar: tqdm):
        self.waiting: queue.SimpleQueue[Key] = queue.SimpleQueue()
        for job in jobs:
            self.waiting.put(job)
        self.open = len(jobs)
        self.tries: dict[Key, int] = dict.fromkeys(jobs, 0)
        self.failures: dict[Key, str] = {}
        self.by_server: dict[str, int] = {}
        self.bug: BaseException | None = None
        self.bar, self.lock = bar, threading.Lock()

    def finish(self, job: Key, url: str, failure: str | None = None) -> None:
        with self.lock:
            self.open -= 1
            self.bar.update()
            if failure is None:
                self.by_server[url] = self.by_server.get(url, 0) + 1
            else:
                self.failures[job] = failure


def _is_back(client: ComfyClient, patience: float) -> bool:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            client.system_stats()
            return True
        except ServerLost:
            time.sleep(min(1.0, patience / 4))
    return False


def _serve(client: ComfyClient, work: _Work, do: Callable[[ComfyClient, Key], None], patience: float) -> None:
    while work.open and work.bug is None:
        try:
            job = work.waiting.get(timeout=0.2)
        except queue.Empty:
            # Another server may yet give one back.
            continue
        try:
            do(client, job)
            work.finish(job, client.url)
        except (PromptError, ValueError) as error:
            work.finish(job, client.url, str(error))
        except ServerLost as error:
            work.tries[job] += 1
            if work.tries[job] >= TRIES:
                work.finish(job, client.url, f"{error} This happened {TRIES} times with this one.")
            else:
                work.waiting.put(job)
            if not _is_back(client, patience):
                return
        except BaseException as bug:
            work.bug = bug
            return


def run_jobs(
    jobs: Sequence[Key], clients: Sequence[ComfyClient], do: Callable[[ComfyClient, Key], None],
    title: str = "", done_before: int = 0, patience: float = 60,
) -> Outcome[Key]:  # fmt: skip
    """Do every job on whichever server is free; a progress bar says how long it will take.

    Args:
        do: does one job on a server; PromptError and ValueError are the job's own failure.
        done_before: jobs of an earlier run, for the bar.
        patience: seconds to wait for a server that went away; its job goes to another meanwhile.
    """
    with tqdm(total=len(jobs) + done_before, initial=done_before, desc=title, unit="picture") as bar:
        work = _Work(jobs, bar)
        threads = [
            threading.Thread(target=_serve, args=(client, work, do, patience), daemon=True) for client in clients
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                # With a limit, so that Ctrl-C is heard.
                thread.join(0.5)
    if work.bug is not None:
        raise work.bug
    left = []
    while not work.waiting.empty():
        left.append(work.waiting.get())
    return Outcome(sum(work.by_server.values()), work.failures, left, work.by_server)

"""A running ComfyUI with this pack: start it, queue prompts, follow them, fetch what they made."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import host

# Behind everything: `nodes` must stay the host's in the tests.
sys.path.append(str(host.REPO))

from dreamo_core.measure.client import ComfyClient, Event, PromptError, ServerLost  # noqa: E402

__all__ = ["PromptError", "Server", "free_port"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server(ComfyClient):
    """The real server on the loopback address, for as long as the `with` block runs.

    Args:
        base: ComfyUI base directory; the pack is linked into its custom_nodes.
        threads: number of CPU threads, or None for torch's default.
        link: False where the pack lies in `base` already.
    """

    def __init__(
        self,
        base: Path,
        port: int | None = None,
        threads: int | None = None,
        start_timeout: float = 180,
        link: bool = True,
    ):
        self.base, self.port, self.threads, self.start_timeout = base, port or free_port(), threads, start_timeout
        self.link = link
        super().__init__(f"http://127.0.0.1:{self.port}")
        self.log_file = base / "server.log"
        self.process: subprocess.Popen | None = None

    def __enter__(self) -> Server:
        if self.link:
            host.link_pack(self.base)
        environment = dict(os.environ)
        if self.threads:
            environment["OMP_NUM_THREADS"] = str(self.threads)
        with open(self.log_file, "w") as log:
            command = host.server_command(self.base, self.port, interpreter=sys.executable)
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            self._wait_until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self.start_timeout
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"The server stopped with code {self.process.returncode}:\n{self.log()[-3000:]}")
            try:
                self.system_stats()
                return
            except ServerLost:
                time.sleep(0.25)
        raise RuntimeError(f"The server was not ready after {self.start_timeout} s:\n{self.log()[-3000:]}")

    def run(self, prompt: dict[str, Any], on_progress: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
        """As `ComfyClient.run`, with progress in lines of text."""

        def watch(event: Event) -> None:
            on_progress(f"  step {event.step} of {event.steps}" if event.steps else event.type)

        return super().run(prompt, watch)

    def image_files(self, outputs: dict[str, Any], kind: str = "output") -> list[Path]:
        """Files of the pictures that a run saved ("output") or previewed ("temp")."""
        return [
            self.base / kind / image["subfolder"] / image["filename"]
            for node in outputs.values()
            for image in node.get("images", [])
            if image["type"] == kind
        ]

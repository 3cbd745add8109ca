"""A running ComfyUI with this pack: start it, queue prompts, follow them, fetch what they made."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import host


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class PromptError(RuntimeError):
    """The server refused or failed a prompt; `details` is what it said."""

    def __init__(self, message: str, details: Any = None):
        super().__init__(message)
        self.details = details


class Server:
    """The real server on the loopback address, for as long as the `with` block runs.

    Args:
        base: ComfyUI base directory; the pack is linked into its custom_nodes.
        threads: number of CPU threads, or None for torch's default.
    """

    def __init__(self, base: Path, port: int | None = None, threads: int | None = None, start_timeout: float = 180):
        self.base, self.port, self.threads, self.start_timeout = base, port or free_port(), threads, start_timeout
        self.log_file = base / "server.log"
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None

    def __enter__(self) -> Server:
        host.link_pack(self.base)
        environment = dict(os.environ)
        if self.threads:
            environment["OMP_NUM_THREADS"] = str(self.threads)
        with open(self.log_file, "w") as log:
            command = host.server_command(self.base, self.port)
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
                self.get("/system_stats")
                return
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.25)
        raise RuntimeError(f"The server was not ready after {self.start_timeout} s:\n{self.log()[-3000:]}")

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return json.load(answer)

    def object_info(self) -> dict[str, Any]:
        return self.get("/object_info")

    def run(self, prompt: dict[str, Any], on_progress: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
        """Queue a prompt, follow it over the websocket, and return its outputs by node.

        Raises:
            PromptError: the server refused the prompt, or a node failed.
        """
        return asyncio.run(self._run(prompt, on_progress))

    async def _run(self, prompt: dict[str, Any], on_progress: Callable[[str], None]) -> dict[str, Any]:
        client = uuid.uuid4().hex
        async with aiohttp.ClientSession() as session:
            async with session.ws_connect(f"{self.url}/ws?clientId={client}", max_msg_size=0) as socket_:
                body = {"prompt": prompt, "client_id": client}
                async with session.post(f"{self.url}/prompt", json=body) as answer:
                    result = await answer.json()
                if answer.status != 200:
                    raise PromptError(f"The server refused the prompt: {json.dumps(result, indent=1)}", result)
                await self._follow(socket_, prompt, result["prompt_id"], on_progress)
            return await self._outputs(session, result["prompt_id"])

    async def _outputs(self, session: aiohttp.ClientSession, prompt_id: str) -> dict[str, Any]:
        # The server announces success a moment before it writes the history.
        for _ in range(100):
            async with session.get(f"{self.url}/history/{prompt_id}") as answer:
                history = await answer.json()
            if prompt_id in history:
                return history[prompt_id]["outputs"]
            await asyncio.sleep(0.1)
        raise PromptError("The server has no history of a run that succeeded.")

    async def _follow(self, socket_: Any, prompt: dict[str, Any], prompt_id: str, on_progress: Callable) -> None:
        async for message in socket_:
            if message.type != aiohttp.WSMsgType.TEXT:
                continue
            event = json.loads(message.data)
            kind, data = event["type"], event["data"]
            if data.get("prompt_id") != prompt_id:
                continue
            if kind == "executing" and data["node"] is not None:
                on_progress(prompt[data["node"]]["class_type"])
            elif kind == "progress":
                on_progress(f"  step {data['value']} of {data['max']}")
            elif kind == "execution_error":
                raise PromptError(f"{data['node_type']}: {data['exception_message'].strip()}", data)
            elif kind == "execution_interrupted":
                raise PromptError("The run was interrupted.", data)
            elif kind == "execution_success":
                return
        raise PromptError("The server closed the connection.")

    def image_files(self, outputs: dict[str, Any], kind: str = "output") -> list[Path]:
        """Files of the pictures that a run saved ("output") or previewed ("temp")."""
        return [
            self.base / kind / image["subfolder"] / image["filename"]
            for node in outputs.values()
            for image in node.get("images", [])
            if image["type"] == kind
        ]

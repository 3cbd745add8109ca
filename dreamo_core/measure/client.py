"""Talking to a running ComfyUI over HTTP and websocket: queue a prompt, follow it, fetch what it made."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiohttp


class PromptError(RuntimeError):
    """The server refused or failed a prompt; `details` is what it said."""

    def __init__(self, message: str, details: Any = None):
        super().__init__(message)
        self.details = details


class ServerLost(ConnectionError):
    """The server cannot be reached (any more)."""


@dataclass(frozen=True)
class Event:
    """Something that a running prompt reported.

    Attributes:
        node: its id in the prompt; `type` is its class.
        step, steps: of a progress report, else 0.
        at: `time.monotonic()` of its arrival, in seconds.
    """

    node: str
    type: str
    step: int
    steps: int
    at: float


Watch = Callable[[Event], None]


class ComfyClient:
    """A ComfyUI server by its address, such as `http://127.0.0.1:8188`."""

    def __init__(self, url: str):
        self.url = url.rstrip("/")

    def _request(self, path: str) -> bytes:
        try:
            with urllib.request.urlopen(self.url + path, timeout=60) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            raise PromptError(f"The server said {error.code} {error.reason} to {path.partition('?')[0]}.") from error
        except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
            raise ServerLost(f"There is no answer from {self.url} ({error}); start ComfyUI.") from error

    def get(self, path: str) -> Any:
        """JSON of a GET request.

        Raises:
            ServerLost: no answer.
            PromptError: the server refused.
        """
        return json.loads(self._request(path))

    def object_info(self) -> dict[str, Any]:
        return self.get("/object_info")

    def system_stats(self) -> dict[str, Any]:
        return self.get("/system_stats")

    def fetch(self, file: dict[str, str]) -> bytes:
        """A file as it stands among the outputs of a run: `filename`, `subfolder`, `type`."""
        return self._request("/view?" + urllib.parse.urlencode(file))

    def upload(self, content: bytes, ending: str, folder: str = "dreamo_bench") -> str:
        """Put a picture into the server's input folder, under a name made of its content.

        Args:
            content: of the picture file.
            ending: of its name, with the dot.

        Returns:
            What LoadImage calls it.
        """
        return asyncio.run(self._upload(content, hashlib.sha256(content).hexdigest()[:16] + ending, folder))

    async def _upload(self, content: bytes, name: str, folder: str) -> str:
        form = aiohttp.FormData({"type": "input", "subfolder": folder, "overwrite": "true"})
        form.add_field("image", content, filename=name)
        try:
            async with aiohttp.ClientSession() as session:
                async with session.post(f"{self.url}/upload/image", data=form) as answer:
                    answer.raise_for_status()
                    stored = await answer.json()
        except aiohttp.ClientConnectionError as error:
            raise ServerLost(f"There is no answer from {self.url} ({error}); start ComfyUI.") from error
        return f"{stored['subfolder']}/{stored['name']}" if stored["subfolder"] else stored["name"]

    def run(self, prompt: dict[str, Any], watch: Watch = lambda event: None) -> dict[str, Any]:
        """Queue a prompt, follow it over the websocket, and return its outputs by node.

        Args:
            watch: told of every node that starts and every step it reports.

        Raises:
            PromptError: the server refused the prompt, or a node failed.
            ServerLost: no answer, or the connection broke.
        """
        try:
            return asyncio.run(self._run(prompt, watch))
        except aiohttp.ClientConnectionError as error:
            raise ServerLost(f"The connection to {self.url} broke ({error}).") from error

    async def _run(self, prompt: dict[str, Any], watch: Watch) -> dict[str, Any]:
        client = uuid.uuid4().hex
        async with aiohttp.ClientSession() as session:
            async with session.ws_connect(f"{self.url}/ws?clientId={client}", max_msg_size=0) as socket:
                body = {"prompt": prompt, "client_id": client}
                async with session.post(f"{self.url}/prompt", json=body) as answer:
                    result = await answer.json()
                if answer.status != 200:
                    raise PromptError(f"The server refused the prompt: {json.dumps(result, indent=1)}", result)
                await self._follow(socket, prompt, result["prompt_id"], watch)
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

    async def _follow(
        self, socket: aiohttp.ClientWebSocketResponse, prompt: dict[str, Any], prompt_id: str, watch: Watch
    ) -> None:
        def type_of(node: str) -> str:
            # Nodes that others put in while running have ids of their own.
            return prompt.get(node, {}).get("class_type", "")

        async for message in socket:
            if message.type != aiohttp.WSMsgType.TEXT:
                continue
            event = json.loads(message.data)
            kind, data = event["type"], event["data"]
            if data.get("prompt_id") != prompt_id:
                continue
            if kind == "executing" and data["node"] is not None:
                watch(Event(data["node"], type_of(data["node"]), 0, 0, time.monotonic()))
            elif kind == "progress":
                watch(Event(data["node"], type_of(data["node"]), data["value"], data["max"], time.monotonic()))
            elif kind == "execution_error":
                raise PromptError(f"{data['node_type']}: {data['exception_message'].strip()}", data)
            elif kind == "execution_interrupted":
                raise PromptError("The run was interrupted.", data)
            elif kind == "execution_success":
                return
        raise ServerLost("The server closed the connection.")

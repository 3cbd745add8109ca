"""Words on a node."""

from __future__ import annotations

from server import PromptServer


def say(node_id: str | None, text: str) -> None:
    """Show `text` on the node in the browser; nothing where no server or no node is (a script, a test)."""
    server = getattr(PromptServer, "instance", None)
    if server is not None and node_id is not None:
        server.send_progress_text(text, node_id)

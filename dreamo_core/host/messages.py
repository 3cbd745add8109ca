"""Words on a node."""

from __future__ import annotations

import sys


def say(node_id: str | None, text: str) -> None:
    """Show `text` on the node in the browser; nothing where no server runs in this process or no node is known."""
    # Importing the host's server module would start building one.
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    if server is not None and node_id is not None:
        server.send_progress_text(text, node_id)

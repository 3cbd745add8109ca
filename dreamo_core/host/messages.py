"""Words on a node."""

from __future__ import annotations

import logging
import sys
from typing import Any

logger = logging.getLogger("DreamO")


def say(node_id: str | None, text: str) -> None:
    """Show `text` on the node in the browser; nothing where no server runs in this process or no node is known."""
    # Asked for, not imported: nodes are also run without a server, and the module brings all of it along.
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    if server is not None and node_id is not None:
        server.send_progress_text(text, node_id)


def report(text: str, hidden: Any, problems: str = "") -> None:
    """Show `text` on the node, with `problems` above it; problems also go to the log as one warning.

    Args:
        text: what was done.
        hidden: the node class's `hidden`, which knows the node's id; None where nodes are run without the host.
        problems: what the user should look at; empty for nothing.
    """
    if problems:
        logger.warning(problems)
        # First, because the front end shows the first lines.
        text = f"{problems}\n{text}"
    say(getattr(hidden, "unique_id", None), text)

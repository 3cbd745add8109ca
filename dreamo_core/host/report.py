"""Telling the user: the log, and a line of text on the node."""

from __future__ import annotations

import logging
import sys

logger = logging.getLogger("DreamO")


def report(text: str, node_id: str | None, problems: str = "") -> None:
    """Show `text` on the node, with `problems` below it; problems also go to the log as one warning."""
    if problems:
        logger.warning(problems)
        text = f"{text}\n{problems}"
    # Asked for, not imported: nodes are also run without a server, and the module brings all of it along.
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    if server is not None and node_id is not None:
        server.send_progress_text(text, node_id)

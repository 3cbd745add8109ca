"""One HTML file that shows everything: findings, tables, plots and pictures, nothing fetched from anywhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import matplotlib
import pandas as pd
from PIL import Image

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

TEMPLATE = Path(__file__).with_name("page.html.jinja")

GOOD, BAD, SKIPPED, NOTE = "ok", "fault", "skipped", "note"
"""Kinds of findings."""

WIDTH = 384
"""Of pictures on the page; the files beside it are whole."""


@dataclass(frozen=True)
class Finding:
    """One thing that was found: `kind` is one of those above, `text` a sentence."""

    kind: str
    text: str


@dataclass(frozen=True)
class Shown:
    """A picture on the page: a `data:` address and what stands under it."""

    address: str
    caption: str = ""
    wide: bool = False


@dataclass
class Section:
    """A part of the page, in this order; what is empty is left out."""

    title: str
    text: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    findings: Sequence[Finding] = ()
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    pictures: Sequence[Shown] = ()
    details: str = ""
    listed: bool = True
    """Whether the page's list of sections names it."""


def _address(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def show_picture(picture: Image.Image, caption: str = "", width: int = WIDTH) -> Shown:
    """A picture, shrunk to at most `width`, as WebP inside the page."""
    small = picture.convert("RGB")
    small.thumbnail((width, width))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=82)
    return Shown(_address(buffer.getvalue(), "image/webp"), caption)


def show_figure(figure: Figure, caption: str = "") -> Shown:
    """A plot, as SVG inside the page; closed afterwards."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    return Shown(_address(buffer.getvalue(), "image/svg+xml"), caption, wide=True)


def _as_html(table: pd.DataFrame) -> str:
    return table.to_html(
        border=0, na_rep="–", float_format=lambda value: f"{value:.4f}", justify="left", index_names=False
    )


def render(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The page as HTML; everything in it is escaped."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(title=title, lead=lead, sections=sections, as_html=_as_html)

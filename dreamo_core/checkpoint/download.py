"""Fetching released files, only when asked to on the command line; never while a node runs.

A file appears under its name when it is whole and, where the manifest knows it, has the right size and SHA-256.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from .presets import ReleasedFile

STAGING = ".dreamo-download"
"""Beside the result: partial files stay here, so that the next try resumes."""

_CHUNK = 1 << 22


class DownloadError(Exception):
    """A file could not be fetched, or is not the released one."""


def sha256_of(path: Path, tell: Callable[[int], object] = lambda count: None) -> str:
    """Hex digest of a file.

    Args:
        tell: given the number of bytes of every part that was read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            tell(len(chunk))
    return digest.hexdigest()


def check(path: Path, file: ReleasedFile) -> str:
    """Compare with the manifest; returns what could be said: "verified", or "not verified" and the hash it has.

    Raises:
        DownloadError: wrong size or hash.
    """
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        raise DownloadError(f"{file.name} has {size} bytes, the released file has {file.size}.")
    digest = sha256_of(path)
    if file.sha256 is None:
        return f"not verified: the manifest has no SHA-256 for it; this file's is {digest}"
    if digest != file.sha256.lower():
        raise DownloadError(f"{file.name} has SHA-256 {digest}, the released file has {file.sha256.lower()}.")
    return "verified"


def _fetch(file: ReleasedFile, staging: Path, endpoint: str | None) -> Path:
    """Fetch what is not here yet of a file into the staging folder.

    `hf_hub_download` would start anew in every run; its transport underneath goes on where a partial file ends.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    # Released files are public, so no token leaves this machine.
    headers = build_hf_headers(token=False)
    try:
        url = hf_hub_url(file.repo, file.path, endpoint=endpoint)
        remote = get_hf_file_metadata(url, token=False)
        # By its version too: parts of two versions must never meet in one file.
        partial = staging / f"{file.id}.{hashlib.sha256((remote.etag or '').encode()).hexdigest()[:12]}.part"
        with partial.open("ab") as target:
            http_get(
                remote.location, target, resume_size=target.tell(), headers=headers, expected_size=remote.size,
                displayed_filename=file.name,
            )  # fmt: skip
    except Exception as error:
        # The transport's errors are of many classes, and of others in each of its versions.
        raise DownloadError(
            f"{file.name} could not be fetched from {file.repo} ({type(error).__name__}: {error}). "
            "What arrived is kept; run the same command again to go on."
        ) from error
    return partial


def download(
    files: Iterable[ReleasedFile], folder: Path, endpoint: str | None = None, say: Callable[[str], None] = print
) -> None:
    """Fetch files into a folder; those already there are checked and left.

    Args:
        files: what to fetch.
        folder: made if missing.
        endpoint: another server that speaks the Hub's protocol, for mirrors.
        say: told one line per file.

    Raises:
        DownloadError: at the first file that cannot be fetched or is not the released one; nothing wrong is left
            under a file's name.
    """
    staging = folder / STAGING
    for file in files:
        target = folder / file.name
        if target.exists():
            try:
                say(f"{file.name}: already there, {check(target, file)}")
            except DownloadError as error:
                raise DownloadError(f"{error} It was left as it is; move it away to fetch it anew.") from error
            continue
        staging.mkdir(parents=True, exist_ok=True)
        fetched = _fetch(file, staging, endpoint)
        try:
            verdict = check(fetched, file)
        except DownloadError as error:
            fetched.unlink()
            raise DownloadError(f"{error} What was fetched has been removed.") from error
        os.replace(fetched, target)
        say(f"{file.name}: fetched, {verdict}")
    if staging.exists() and not any(staging.iterdir()):
        staging.rmdir()

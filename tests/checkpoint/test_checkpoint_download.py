"""The download command against a server on this machine that cuts connections and serves wrong bytes."""

import fcntl
import hashlib
import json
import os
import struct
import subprocess
import sys
import termios
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from dreamo_routed.dreamo_core.checkpoint.__main__ import main
from support import REPO

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MEGABYTE = 2**20
# The transport keeps what arrives in steps of 10 MB; a cut has to come after that.
CONTENT = os.urandom(MEGABYTE) * 36
CUT_AFTER = 12 * MEGABYTE


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub's protocol as fetching a file takes; the server object carries what to serve and how."""

    def log_message(self, *_):
        pass

    def _headers(self, status, length, start=0):
        content = self.server.content
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()

    def do_HEAD(self):
        self.server.seen.append(("HEAD", self.path, None))
        if self.server.missing:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self._headers(200, len(self.server.content))

    def do_GET(self):
        asked = self.headers.get("Range")
        self.server.seen.append(("GET", self.path, asked))
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
        body = self.server.content[start:]
        self._headers(206 if asked else 200, len(body), start)
        if self.server.cuts:
            self.server.cuts -= 1
            self.wfile.write(body[:CUT_AFTER])
            self.wfile.flush()
            self.connection.close()
            return
        self.wfile.write(body)


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.content, server.cuts, server.missing, server.seen = CONTENT, 0, False, []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def manifest(path, size=36 * MEGABYTE, sha256=None):
    entry = {"also": [], "repo": "owner/name", "size": size, "sha256": sha256}
    files = {
        "turbo": {**entry, "name": "turbo.safetensors", "path": "folder/weights.safetensors"},
    }
    path.write_text(json.dumps({"files": files}))
    return path


def arguments(hub, tmp_path, **kwargs):
    return [
        "download", "turbo", "--to", str(tmp_path / "to"), "--endpoint", f"http://127.0.0.1:{hub.server_port}",
        "--manifest", str(manifest(tmp_path / "m.json", **kwargs)),
    ]  # fmt: skip


def start(hub, tmp_path, stderr, **kwargs):
    """The command as a user types it, from the repository, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "dreamo_core.checkpoint", *arguments(hub, tmp_path, **kwargs)],
        cwd=REPO, env={**os.environ, "HF_HOME": str(tmp_path / "home")}, stdout=subprocess.PIPE, stderr=stderr,
    )  # fmt: skip


@pytest.fixture
def run(hub, tmp_path, capsys):
    """The same in this process: exit code, what was printed, what was printed as errors."""

    def command(**kwargs):
        code = main(arguments(hub, tmp_path, **kwargs))
        return code, *capsys.readouterr()

    return command


GOOD = hashlib.sha256(CONTENT).hexdigest()


def test_a_whole_file_is_fetched_with_a_progress_bar_and_verified_then_left_alone(hub, tmp_path, run):
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    process = start(hub, tmp_path, stderr=slave, sha256=GOOD)
    os.close(slave)
    shown = b""
    try:
        while chunk := os.read(master, 4096):
            shown += chunk
    except OSError:
        # How the end of a terminal reads on Linux.
        pass
    os.close(master)
    assert process.communicate()[0].decode().strip() == "turbo.safetensors: fetched, verified"
    assert process.returncode == 0
    assert b"turbo.safetensors" in shown and b"100%" in shown, "no progress bar"
    assert (tmp_path / "to" / "turbo.safetensors").read_bytes() == CONTENT
    assert [p.name for p in (tmp_path / "to").iterdir()] == ["turbo.safetensors"]
    hub.seen.clear()
    assert run(sha256=GOOD.upper())[:2] == (0, "turbo.safetensors: already there, verified\n")
    assert not hub.seen


def test_an_unknown_hash_is_said_to_be_unverified(run):
    code, out, _ = run(size=None)
    assert code == 0
    assert f"not verified: the manifest has no SHA-256 for it; this file's is {GOOD}" in out


def ranges_asked(hub):
    return [asked for method, _, asked in hub.seen if method == "GET"]


def test_cut_connections_are_resumed_within_one_run(hub, tmp_path, run):
    hub.cuts = 2
    code, _, err = run(sha256=GOOD)
    assert code == 0, err
    assert (tmp_path / "to" / "turbo.safetensors").read_bytes() == CONTENT
    first, *others = ranges_asked(hub)
    assert first is None and len(others) == 2
    starts = [int(asked.removeprefix("bytes=").split("-")[0]) for asked in others]
    assert 0 < starts[0] < starts[1] < len(CONTENT)


def test_a_run_that_was_killed_is_resumed_by_the_next(hub, tmp_path, run):
    hub.cuts = 1000
    process = start(hub, tmp_path, stderr=subprocess.DEVNULL)
    while len(ranges_asked(hub)) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate()
    held = max(p.stat().st_size for p in (tmp_path / "to").rglob("*.part"))
    assert 0 < held < len(CONTENT)
    assert not (tmp_path / "to" / "turbo.safetensors").exists()
    hub.cuts = 0
    hub.seen.clear()
    code, _, err = run(sha256=GOOD)
    assert code == 0, err
    assert ranges_asked(hub) == [f"bytes={held}-"]
    assert (tmp_path / "to" / "turbo.safetensors").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("wrong", "message"), [({"sha256": "0" * 64}, f"has SHA-256 {GOOD}"), ({"size": 5}, "the released file has 5")]
)
def test_a_wrong_file_is_an_error_and_is_removed(wrong, message, tmp_path, run):
    code, _, err = run(**wrong)
    assert code == 1
    assert message in err and "has been removed" in err
    assert not [path for path in (tmp_path / "to").rglob("*") if path.is_file()]


def test_a_wrong_file_that_was_there_before_is_reported_and_left(hub, tmp_path, run):
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "turbo.safetensors").write_bytes(b"mine")
    code, _, err = run(sha256=GOOD)
    assert code == 1 and "It was left as it is" in err
    assert (tmp_path / "to" / "turbo.safetensors").read_bytes() == b"mine"
    assert not hub.seen


def test_a_file_that_the_server_does_not_have(hub, run):
    hub.missing = True
    code, _, err = run()
    assert code == 1
    assert "turbo.safetensors could not be fetched from owner/name" in err

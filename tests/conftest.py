"""Boots the real host in this process, on CPU, and loads the pack the way the host would: as a package by path.

Tests import the pack as `dreamo_routed` (so `from dreamo_routed.dreamo_core import positions`).
"""

import os
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from boot import boot

# Removed when this object goes, at the latest with the process.
_BASE = tempfile.TemporaryDirectory(prefix="dreamo-tests-", ignore_cleanup_errors=True)
BASE = Path(_BASE.name)

if "DREAMO_COMFYUI" not in os.environ:
    raise pytest.UsageError("Run the tests with ./test.sh: it installs ComfyUI and says where it is.")
for name in ("custom_nodes", "models/dreamo", "input", "output", "temp", "user"):
    (BASE / name).mkdir(parents=True, exist_ok=True)
# The models are tiny: more threads only wait for each other, and one gives the same bits every time.
torch.set_num_threads(1)
# On the device where that is what is asked for: `./test.sh -m gpu`.
boot(cpu=not ("gpu" in sys.argv and torch.cuda.is_available()), base=BASE)


@pytest.fixture(autouse=True)
def no_gradients():
    """The host runs nodes without gradients; a test that needs them turns them on itself."""
    with torch.no_grad():
        yield


@pytest.fixture(scope="session")
def browser():
    """One headless Chromium for all tests of the front end (see `front_end.py`)."""
    import screenshot

    driver = screenshot.browser()
    driver.set_script_timeout(60)
    yield driver
    driver.quit()


@pytest.fixture(scope="session")
def demo_server(tmp_path_factory):
    """One server for all tests that do not change it, with the photographs and DreamO files that the graphs name."""
    from comfy_server import Server
    from example_inputs import write_example_inputs
    from screenshot import write_settings

    base = tmp_path_factory.mktemp("demo")
    write_example_inputs(base)
    write_settings(base)
    with Server(base) as server:
        yield server

#!/usr/bin/env bash
# Sets up the real host (cached) and runs the tests. Extra arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")"
exec python3 scripts/host.py exec -m pytest "$@"

#!/usr/bin/env bash
# Sets up the real host (cached), runs the example graphs in it and prints where the pictures are.
set -euo pipefail
cd "$(dirname "$0")"
exec python3 scripts/host.py exec scripts/demo.py "$@"

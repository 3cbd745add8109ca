#!/usr/bin/env bash
# Sets up the real host (cached), runs the first template and the mini world in it and prints where the pictures are.
# `--comfyui DIR` in front of everything else, or $DREAMO_COMFYUI: in an existing ComfyUI.
set -euo pipefail
cd "$(dirname "$0")"
host=(python3 scripts/host.py)
if [ "${1:-}" = --comfyui ]; then
    host+=(--comfyui "$2")
    shift 2
fi
exec "${host[@]}" exec scripts/demo.py "$@"

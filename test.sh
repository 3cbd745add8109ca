#!/usr/bin/env bash
# Sets up the real host (cached) and runs the tests, those in a browser as steps of their own: all of them on the front
# end that the host asks for, a short set on each newer one. With arguments, runs pytest once with these.
# `--comfyui DIR` in front of everything else, or $DREAMO_COMFYUI: in an existing ComfyUI.
set -euo pipefail
cd "$(dirname "$0")"
host=(python3 scripts/host.py)
if [ "${1:-}" = --comfyui ]; then
    host+=(--comfyui "$2")
    shift 2
fi
if [ $# -gt 0 ]; then
    exec "${host[@]}" exec -m pytest "$@"
fi

NEWER_FRONT_ENDS=(1.49.6 1.58.1)
failed=()
step() {
    echo
    echo "===== $1 ====="
    "${host[@]}" exec -m pytest -m "$2" || failed+=("$1")
}
step "Step 1: the nodes and the server" "not browser and not long"
step "Step 2: the front end in a browser" "browser and not long"
for version in "${NEWER_FRONT_ENDS[@]}"; do
    export DREAMO_FRONT_END=$version
    step "Step 3: the short set on front end $version" "every_front_end and not long"
done

echo
if [ ${#failed[@]} -gt 0 ]; then
    printf 'FAILED: %s\n' "${failed[@]}"
    exit 1
fi
echo "All steps passed."

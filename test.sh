#!/usr/bin/env bash
# Sets up the real host (cached) and runs the tests, those in a browser as a step of their own. With arguments, runs
# pytest once with these.
set -euo pipefail
cd "$(dirname "$0")"
if [ $# -gt 0 ]; then
    exec python3 scripts/host.py exec -m pytest "$@"
fi

failed=()
step() {
    echo
    echo "===== $1 ====="
    python3 scripts/host.py exec -m pytest -m "$2" || failed+=("$1")
}
step "Step 1 of 2: the nodes and the server" "not browser and not long"
step "Step 2 of 2: the front end in a browser" "browser and not long"

echo
if [ ${#failed[@]} -gt 0 ]; then
    printf 'FAILED: %s\n' "${failed[@]}"
    exit 1
fi
echo "Both steps passed."

#!/usr/bin/env bash
# `make test`: set-up, the dev preset (warnings are errors, ASan and UBSan), every test.
# BUILD_DIR builds elsewhere than build/dev; TESTS is a regular expression of test names.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
build=${BUILD_DIR:-build/dev}
jobs=$(nproc)

bash scripts/setup_env.sh --tests
cmake --preset dev -B "$build" >/dev/null
cmake --build "$build" --parallel "$jobs"
exec ctest --test-dir "$build" --output-on-failure --no-tests=error --parallel "$jobs" ${TESTS:+-R "$TESTS"}

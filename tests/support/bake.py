"""Small GGUF files, runs of bake_model, and packages read back, for the tests of the bake."""
import json
import os
import subprocess
import sys


def skip(reason):
    print("skipped: " + reason)
    sys.exit(77)


try:
    import gguf
    import numpy as np
except ImportError:
    skip("the Python packages gguf and numpy are missing (tests/requirements.txt)")

BAKE = os.path.join(os.environ.get("OFFERING_BIN_DIR", "build/bin"), "bake_model")
D_MODEL, N_HEADS, N_KV_HEADS, HEAD_DIM, D_FF, N_LAYERS = 128, 4, 2, 32, 96, 2


def byte_alphabet():
    """The 256 characters that byte-level BPE writes for bytes."""
    keep = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    others = [b for b in range(256) if b not in keep]
    return [chr(b) for b in keep] + [chr(256 + i) for i in range(len(others))]


def tokens():
    return byte_alphabet() + ["th", "<|im_end|>"]


def shapes():
    """Name and numpy shape of every tensor of the small model."""
    q, kv = N_HEADS * HEAD_DIM, N_KV_HEADS * HEAD_DIM
    result = [("token_embd.weight", (len(tokens()), D_MODEL))]
    for i in range(N_LAYERS):
        blk = "blk.%d." % i
        result += [(blk + "attn_norm.weight", (D_MODEL,)), (blk + "attn_q.weight", (q, D_MODEL)),
                   (blk + "attn_q.bias", (q,)),
                   (blk + "attn_k.weight", (kv, D_MODEL)), (blk + "attn_v.weight", (kv, D_MODEL)),
                   (blk + "attn_output.weight", (D_MODEL, q)), (blk + "ffn_norm.weight", (D_MODEL,)),
                   (blk + "ffn_gate.weight", (D_FF, D_MODEL)), (blk + "ffn_up.weight", (D_FF, D_MODEL)),
                   (blk + "ffn_down.weight", (D_MODEL, D_FF))]
    return result + [("output_norm.weight", (D_MODEL,)), ("rope_freqs.weight", (HEAD_DIM // 2,))]


def random_weights(seed=1):
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes()}


def write_gguf(path, weights, arch="llama", quantize=None, extra=None, drop=(), **options):
    """`quantize` (a GGMLQuantizationType) is applied to matrices; `extra` is called with the
    writer; tensors in `drop` are left out; `options` are GGUFWriter's."""
    w = gguf.GGUFWriter(path, arch, **options)
    w.add_name("small")
    w.add_license("apache-2.0")
    w.add_block_count(N_LAYERS)
    w.add_context_length(512)
    w.add_embedding_length(D_MODEL)
    w.add_feed_forward_length(D_FF)
    w.add_head_count(N_HEADS)
    w.add_head_count_kv(N_KV_HEADS)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_freq_base(10000.0)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list(tokens())
    w.add_token_types([1] * 257 + [3])
    w.add_token_merges(["t h"])
    w.add_eos_token_id(257)
    w.add_chat_template("{{ messages[0].content }}")
    if extra:
        extra(w)
    for name, values in weights.items():
        if name in drop:
            continue
        if quantize is not None and values.ndim == 2:
            w.add_tensor(name, gguf.quantize(values, quantize), raw_dtype=quantize)
        else:
            w.add_tensor(name, values)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def run(*args, cwd=None, preexec_fn=None, timeout=300, environment=None):
    # Calibration has tests of its own; the others need not wait for it.
    if not {"--calibrate", "--keep_quantization", "--tokenizer_only", "--data_free"} & set(args):
        args = (*args, "--data_free")
    result = subprocess.run([BAKE, *args], cwd=cwd, capture_output=True, text=True, timeout=timeout,
                            env=environment, preexec_fn=preexec_fn, check=False)
    # A sanitizer's report must never pass for an error message.
    if "Sanitizer" in result.stderr or "runtime error" in result.stderr or result.returncode < 0:
        raise AssertionError("bake_model %s: %d\n%s" % (args, result.returncode, result.stderr))
    return result


def files_of(directory):
    return {name: open(os.path.join(directory, name), "rb").read()
            for name in sorted(os.listdir(directory))}


def load_package(directory):
    """model.json, and every tensor as floats."""
    with open(os.path.join(directory, "model.json")) as f:
        model = json.load(f)
    weights = np.memmap(os.path.join(directory, "weights.bin"), dtype=np.uint8, mode="r")
    values = {}
    for t in model["tensors"]:
        raw = np.array(weights[t["offset"]:t["offset"] + t["bytes"]])
        if t["dtype"] == "f32":
            values[t["name"]] = raw.view(np.float32).reshape(t["shape"])
            continue
        n, k = t["shape"]
        group = t["group_size"]
        scales = np.array(weights[t["scale_offset"]:t["scale_offset"] + t["scale_bytes"]])
        scales = scales.view(np.float16).astype(np.float32).reshape(-1)
        minima = 0
        if t["dtype"] == "i4m":
            half = t["scale_bytes"] // 2
            minima = np.array(weights[t["scale_offset"] + half:t["scale_offset"] + 2 * half])
            minima = minima.view(np.float16).astype(np.float32).reshape(n, k // group, 1)
            scales = scales[:n * (k // group)]
        if t["dtype"] in ("i4", "i4m"):
            pairs = raw.reshape(n, k // 2)
            q = np.empty((n, k), np.int8)
            q[:, 0::2] = ((pairs & 15) ^ 8).astype(np.int8) - 8
            q[:, 1::2] = ((pairs >> 4) ^ 8).astype(np.int8) - 8
        else:
            q = raw.view(np.int8).reshape(n, k)
        q = q.reshape(n, k // group, group)
        if t["dtype"] == "i4m":
            q = q + np.int8(8)
        scales = scales.reshape(n, k // group, 1)
        values[t["name"]] = (q * scales + minima).reshape(n, k)
    return model, values


def expect(condition, *what):
    if not condition:
        raise AssertionError(" ".join(str(w) for w in what))

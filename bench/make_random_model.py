#!/usr/bin/env python3
"""Writes a model of a known shape with random weights, for measurements that need a size and not a mind.

  --format package      a finished package, INT4 by groups, as bake_model would write it: for the speed of the
                        programs. tokenizer.bin comes from bake_model, so the programs must be built.
  --format safetensors  a checkpoint as a hub repository holds it (config.json, bf16 shards, index,
                        tokenizer.model): what bake_model starts from.

Nothing larger than a block of rows is held in memory. The same arguments give the same bytes.

  venv_offering/bin/python3 bench/make_random_model.py --shape mistral-7b --format package OUTPUT
"""
import argparse
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile

import numpy as np

BLOCK_BYTES = 8 << 20

# In the terms of the hub's config.json. mistral-7b is the shape of Intel/neural-chat-7b-v3-1.
SHAPES = {
    "mistral-7b": {
        "architectures": ["MistralForCausalLM"], "model_type": "mistral", "hidden_size": 4096,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336,
        "vocab_size": 32000, "max_position_embeddings": 32768, "rms_norm_eps": 1e-05, "rope_theta": 10000.0,
        "sliding_window": 4096, "tie_word_embeddings": False, "hidden_act": "silu"},
    "llama-7b": {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32, "intermediate_size": 11008,
        "vocab_size": 32000, "max_position_embeddings": 4096, "rms_norm_eps": 1e-05, "rope_theta": 10000.0,
        "tie_word_embeddings": False, "hidden_act": "silu"},
    "llama-1b": {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 2048,
        "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 8192,
        "vocab_size": 128256, "max_position_embeddings": 8192, "rms_norm_eps": 1e-05, "rope_theta": 500000.0,
        "tie_word_embeddings": True, "hidden_act": "silu"},
    "smollm2-135m": {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 576,
        "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 1536,
        "vocab_size": 49152, "max_position_embeddings": 8192, "rms_norm_eps": 1e-05, "rope_theta": 100000.0,
        "tie_word_embeddings": True, "hidden_act": "silu"},
}

# neural-chat's prompt form.
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'system' %}### System:\n{{ message['content'] }}\n"
    "{% elif message['role'] == 'user' %}### User:\n{{ message['content'] }}\n"
    "{% elif message['role'] == 'assistant' %}### Assistant:\n{{ message['content'] }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}### Assistant:\n{% endif %}")


def tensors_of(config):
    """(name, shape) of every tensor, in the order of the package."""
    d, ff, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    head = config.get("head_dim") or d // config["num_attention_heads"]
    q, kv = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    yield "model.embed_tokens.weight", (vocab, d)
    for i in range(config["num_hidden_layers"]):
        layer = "model.layers.%d." % i
        yield layer + "input_layernorm.weight", (d,)
        yield layer + "self_attn.q_proj.weight", (q, d)
        yield layer + "self_attn.k_proj.weight", (kv, d)
        yield layer + "self_attn.v_proj.weight", (kv, d)
        yield layer + "self_attn.o_proj.weight", (d, q)
        yield layer + "post_attention_layernorm.weight", (d,)
        yield layer + "mlp.gate_proj.weight", (ff, d)
        yield layer + "mlp.up_proj.weight", (ff, d)
        yield layer + "mlp.down_proj.weight", (d, ff)
    yield "model.norm.weight", (d,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (vocab, d)


def pieces(count):
    """A vocabulary of SentencePiece's BPE kind: (text, score, type)."""
    result = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    result += [("<0x%02X>" % byte, 0.0, 6) for byte in range(256)]
    letters = "etaoinshrdlcumwfgypbvkjxqz"
    words = [mark + text for size in (2, 3, 4) for mark in ("\u2581", "") for text in combinations(letters, size)]
    single = ["\u2581" + c for c in letters] + ["\u2581"] + [chr(c) for c in range(33, 127)]
    texts = [text for size in (2, 3, 4, 5) for text in words if len(text) == size][:count]
    texts = texts[:max(0, count - len(result) - len(single))] + single
    result += [(text, -float(rank), 1) for rank, text in enumerate(texts)]
    return result[:count]


def combinations(letters, size):
    if size == 0:
        yield ""
        return
    for rest in combinations(letters, size - 1):
        for letter in letters:
            yield rest + letter


def gguf_string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def write_vocabulary(path, count):
    """A GGUF file without tensors: enough for bake_model --tokenizer_only."""
    vocabulary = pieces(count)

    def array(kind, body):
        return struct.pack("<IIQ", 9, kind, len(vocabulary)) + body

    values = {
        "general.architecture": struct.pack("<I", 8) + gguf_string("llama"),
        "tokenizer.ggml.model": struct.pack("<I", 8) + gguf_string("llama"),
        "tokenizer.ggml.tokens": array(8, b"".join(gguf_string(p[0]) for p in vocabulary)),
        "tokenizer.ggml.scores": array(6, b"".join(struct.pack("<f", p[1]) for p in vocabulary)),
        "tokenizer.ggml.token_type": array(5, b"".join(struct.pack("<i", p[2]) for p in vocabulary)),
        "tokenizer.ggml.unknown_token_id": struct.pack("<II", 4, 0),
        "tokenizer.ggml.bos_token_id": struct.pack("<II", 4, 1),
        "tokenizer.ggml.eos_token_id": struct.pack("<II", 4, 2),
        "tokenizer.chat_template": struct.pack("<I", 8) + gguf_string(CHAT_TEMPLATE),
    }
    with open(path, "wb") as f:
        f.write(b"GGUF" + struct.pack("<IQQ", 3, 0, len(values)))
        for key, value in values.items():
            f.write(gguf_string(key) + value)


# ---- package ----

def normal_nibbles():
    """From two random bytes to a byte of two INT4 values that are about normal (deviation 2.4)."""
    ranks = (np.arange(256) + 0.5) / 256
    # The inverse of the logistic function is close enough to that of the normal distribution.
    values = np.clip(np.rint(np.log(ranks / (1 - ranks)) * 1.35), -8, 7).astype(np.int8)
    low = (values.view(np.uint8) & 15)
    return (low[None, :] | (low[:, None] << 4)).astype(np.uint8).reshape(-1)


class Weights:
    """weights.bin: blocks behind each other, aligned, hashed as they are written."""

    def __init__(self, path):
        self.file = open(path, "wb")
        self.sha = hashlib.sha256()
        self.end = 0

    def write(self, data):
        self.file.write(data)
        self.sha.update(data)
        self.end += len(data)

    def align(self, size):
        step = 4096 if size >= 4096 else 64
        self.write(bytes(-self.end % step))
        return self.end


def group_of(k, wanted):
    if wanted < 0:
        return k
    while wanted >= 32:
        if k % wanted == 0:
            return wanted
        wanted //= 2
    sys.exit("make_random_model: 32 does not divide rows of %d" % k)


def write_matrix(out, name, shape, dtype, group_size, rng, table):
    rows, k = shape
    group = group_of(k, group_size)
    size = rows * k // 2 if dtype == "i4" else rows * k
    entry = {"name": name, "dtype": dtype, "shape": list(shape), "offset": out.align(size), "bytes": size}
    left = size
    while left:
        n = min(left, BLOCK_BYTES)
        if dtype == "i4":
            out.write(table[np.frombuffer(rng.bytes(2 * n), dtype=np.uint16)].tobytes())
        else:
            out.write(rng.integers(-127, 128, size=n, dtype=np.int8).tobytes())
        left -= n
    scale_bytes = rows * (k // group) * 2
    entry.update(group_size=group, scale_offset=out.align(scale_bytes), scale_bytes=scale_bytes)
    deviation = 0.02 / (2.4 if dtype == "i4" else 73.3)
    left = scale_bytes // 2
    while left:
        n = min(left, BLOCK_BYTES // 2)
        out.write((deviation * (1 + 0.1 * rng.standard_normal(n, dtype=np.float32))).astype(np.float16).tobytes())
        left -= n
    return entry


def write_package(config, args):
    partial = args.output.rstrip("/") + ".random"
    os.makedirs(partial)
    try:
        with tempfile.TemporaryDirectory() as work:
            vocabulary = os.path.join(work, "vocabulary.gguf")
            write_vocabulary(vocabulary, config["vocab_size"])
            subprocess.run([args.bake_model, "--gguf", vocabulary, "--tokenizer_only",
                            "--output", os.path.join(work, "tokenizer")], check=True, stdout=subprocess.DEVNULL)
            for name in ("tokenizer.bin", "chat_template.jinja"):
                shutil.copyfile(os.path.join(work, "tokenizer", name), os.path.join(partial, name))
        write_package_files(config, args, partial)
        os.rename(partial, args.output)
    except BaseException:
        shutil.rmtree(partial)
        raise


def write_package_files(config, args, directory):
    rng, table = np.random.default_rng(args.seed), normal_nibbles()
    out, tensors = Weights(os.path.join(directory, "weights.bin")), []
    for name, shape in tensors_of(config):
        if len(shape) == 1:
            size = shape[0] * 4
            tensors.append({"name": name, "dtype": "f32", "shape": list(shape), "offset": out.align(size),
                            "bytes": size})
            out.write((1 + 0.1 * rng.standard_normal(shape[0], dtype=np.float32)).tobytes())
        else:
            embedding = "embed" in name or "lm_head" in name
            tensors.append(write_matrix(out, name, shape, "i8" if embedding else "i4", args.group_size, rng, table))
    out.file.close()
    files = {"weights.bin": {"size": out.end, "sha256": out.sha.hexdigest()}}
    for name in ("tokenizer.bin", "chat_template.jinja"):
        with open(os.path.join(directory, name), "rb") as f:
            data = f.read()
        files[name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    model = {
        "checksum": "0" * 64, "format_version": 1, "generator": "make_random_model.py", "architecture": "llama",
        "params": {
            "name": "random " + args.shape, "n_layers": config["num_hidden_layers"],
            "d_model": config["hidden_size"], "n_heads": config["num_attention_heads"],
            "n_kv_heads": config["num_key_value_heads"], "head_dim": head, "d_ff": config["intermediate_size"],
            "vocab_size": config["vocab_size"], "context_length": config["max_position_embeddings"],
            "rms_epsilon": config["rms_norm_eps"], "tied_embedding": config["tie_word_embeddings"],
            "rope": {"dims": head, "base": config["rope_theta"], "scaling": "none"}},
        "source": {"format": "random", "seed": args.seed},
        "quantization": {"weights": "i4", "embedding": "i8", "group_size": args.group_size, "method": "random"},
        "files": files, "tensors": tensors}
    text = json.dumps(model, indent=2, ensure_ascii=False).encode()
    checksum = hashlib.sha256(text).hexdigest().encode()
    with open(os.path.join(directory, "model.json"), "wb") as f:
        f.write(text.replace(b"0" * 64, checksum, 1))


# ---- checkpoint ----

SHARD_BYTES = 5 << 30


def varint(value):
    result = b""
    while value > 127:
        result += bytes([value & 127 | 128])
        value >>= 7
    return result + bytes([value])


def field(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def sentencepiece_model(count):
    """The protocol buffer of a SentencePiece BPE model, as the hub's llama and mistral models have it."""
    result = b""
    for text, score, kind in pieces(count):
        piece = field(1, text.encode()) + varint(2 << 3 | 5) + struct.pack("<f", score)
        result += field(1, piece + varint(3 << 3) + varint(kind))
    trainer = varint(3 << 3) + varint(2) + varint(35 << 3) + varint(1)
    normalizer = field(1, b"identity") + varint(3 << 3) + varint(1) + varint(4 << 3) + varint(0)
    return result + field(2, trainer) + field(3, normalizer)


def normal_bf16(deviation):
    """From two random bytes to a bf16 that is about normal."""
    ranks = (np.arange(1 << 16) + 0.5) / (1 << 16)
    values = (np.log(ranks / (1 - ranks)) * 0.5513 * deviation).astype(np.float32)
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def shards_of(config):
    """Lists of (name, shape), each of at most SHARD_BYTES, sorted by name as the hub's tools do."""
    shards, used = [[]], 0
    for name, shape in tensors_of(config):
        size = 2 * int(np.prod(shape))
        if used + size > SHARD_BYTES and shards[-1]:
            shards.append([])
            used = 0
        shards[-1].append((name, shape))
        used += size
    return [sorted(shard) for shard in shards]


def write_shard(path, tensors, rng, table):
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors:
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name, shape in tensors:
            left = int(np.prod(shape))
            if len(shape) == 1:
                f.write(np.full(left, 0x3F80, np.uint16).tobytes())  # 1.0
                continue
            while left:
                n = min(left, BLOCK_BYTES // 2)
                f.write(table[np.frombuffer(rng.bytes(2 * n), dtype=np.uint16)].tobytes())
                left -= n


def write_checkpoint(config, args):
    partial = args.output.rstrip("/") + ".random"
    os.makedirs(partial)
    try:
        rng, table = np.random.default_rng(args.seed), normal_bf16(0.02)
        shards, index = shards_of(config), {}
        for i, tensors in enumerate(shards):
            file = "model-%05d-of-%05d.safetensors" % (i + 1, len(shards))
            write_shard(os.path.join(partial, file), tensors, rng, table)
            index.update({name: file for name, _ in tensors})
        tokenizer_config = {
            "tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
            "add_bos_token": True, "add_eos_token": False, "chat_template": CHAT_TEMPLATE}
        for name, value in (("config.json", {**config, "torch_dtype": "bfloat16", "bos_token_id": 1,
                                             "eos_token_id": 2}),
                            ("tokenizer_config.json", tokenizer_config),
                            ("model.safetensors.index.json", {"metadata": {}, "weight_map": index})):
            with open(os.path.join(partial, name), "w") as f:
                json.dump(value, f)
        with open(os.path.join(partial, "tokenizer.model"), "wb") as f:
            f.write(sentencepiece_model(config["vocab_size"]))
        os.rename(partial, args.output)
    except BaseException:
        shutil.rmtree(partial)
        raise


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", help="directory to make")
    parser.add_argument("--format", choices=("package", "safetensors"), required=True)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="mistral-7b")
    parser.add_argument("--layers", type=int, help="another number of layers")
    parser.add_argument("--group_size", type=int, default=128, choices=(128, 64, 32, -1))
    parser.add_argument("--seed", type=int, default=1)
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    default = next((p for p in (os.path.join(root, b, "bin", "bake_model") for b in ("build/release", "build"))
                    if os.path.exists(p)), "bake_model")
    parser.add_argument("--bake_model", default=default, help="the program (default %(default)s)")
    args = parser.parse_args()
    if os.path.exists(args.output):
        sys.exit("make_random_model: %s exists already" % args.output)
    config = dict(SHAPES[args.shape])
    if args.layers:
        config["num_hidden_layers"] = args.layers
    (write_package if args.format == "package" else write_checkpoint)(config, args)


if __name__ == "__main__":
    main()

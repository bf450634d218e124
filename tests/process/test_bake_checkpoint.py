"""Checkpoints as the hub keeps them, from a directory: headers that lie, shards that are missing, configurations
that do not fit, names that climb, weights that are not finite: each named, nothing left behind. Chat templates
wherever they may be."""
import json
import os
import shutil
import struct
import tempfile

from support import bake, checkpoint
from support.bake import expect
import numpy as np


def refused(work, source, *texts, options=()):
    before = sorted(os.listdir(work))
    result = bake.run("--model_dir", source, "--output", os.path.join(work, "out"), *options)
    expect(result.returncode == 1, "exit", result.returncode, result.stderr, texts)
    for text in texts:
        expect(text in result.stderr, "expected", repr(text), "in", result.stderr)
    expect(len(result.stderr.strip().splitlines()) <= 3 and result.stdout == "", result.stderr)
    expect(sorted(os.listdir(work)) == before, "left", os.listdir(work))


def baked(work, source, *options):
    output = os.path.join(work, "out")
    result = bake.run("--model_dir", source, "--output", output, *options)
    expect(result.returncode == 0, result.stderr)
    files = bake.files_of(output)
    package = bake.load_package(output) if "weights.bin" in files else None
    shutil.rmtree(output)
    return files, package


def lying_headers(work, source):
    path = os.path.join(source, "model.safetensors")
    with open(path, "rb") as f:
        good = f.read()
    size = struct.unpack("<Q", good[:8])[0]
    header, data = json.loads(good[8:8 + size]), good[8 + size:]
    name = "model.layers.1.mlp.up_proj.weight"
    begin, end = header[name]["data_offsets"]

    def attempt(content, *texts):
        with open(path, "wb") as f:
            f.write(content)
        refused(work, source, *texts)

    def with_header(text):
        return struct.pack("<Q", len(text)) + text + data

    def changed(member, value):
        return with_header(json.dumps({**header, name: {**header[name], member: value}}).encode())

    attempt(b"", "model.safetensors", "is empty")
    attempt(good[:9], "too short")
    attempt(good[:300], "truncated")
    attempt(good[:-2], "ends outside")
    attempt(good + b"\0\0", "follow the last tensor")
    attempt(struct.pack("<Q", 1 << 63) + good[8:], "header of")
    attempt(struct.pack("<Q", len(good)) + good[8:], "header of")
    attempt(with_header(b"[1, 2]"), "no JSON object")
    attempt(with_header(b'{"a": '), "no JSON object")
    attempt(with_header(b"[" * 100000), "no JSON object")
    attempt(with_header(json.dumps(header).encode().replace(b"layers.0.mlp.up", b"layers.1.mlp.up")), "no JSON object")
    attempt(changed("data_offsets", [begin - 64, end - 64]), "overlap")
    attempt(changed("data_offsets", [0, end - begin]), "overlap")
    attempt(changed("data_offsets", [begin, end + 64]), name, "shape and dtype")
    attempt(changed("data_offsets", [begin, 1 << 62]), name, "ends outside")
    attempt(changed("data_offsets", [-1, end]), name, "data_offsets")
    attempt(changed("data_offsets", [end, begin]), name, "data_offsets")
    attempt(changed("data_offsets", [begin]), name, "data_offsets")
    attempt(changed("shape", [1 << 40, 1 << 40]), name, "absurd shape")
    attempt(changed("shape", "all"), name, "shape")
    attempt(changed("shape", [1] * 9), name, "shape")
    attempt(changed("shape", [header[name]["shape"][0] * header[name]["shape"][1]]), name, "shape")
    attempt(changed("dtype", "Q8"), name, "'Q8'")
    attempt(changed("dtype", "I16"), name, "I16")
    attempt(changed("dtype", None), name, "no dtype")
    moved = json.loads(json.dumps(header))
    for entry in moved.values():
        if entry.get("data_offsets", [0])[0] >= end:
            entry["data_offsets"] = [at + 64 for at in entry["data_offsets"]]
    text = json.dumps(moved).encode()
    attempt(struct.pack("<Q", len(text)) + text + data + bytes(64), "hole of 64 bytes")
    # A header of 100 MB: refused before it is read. The file is sparse.
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", 100 << 20) + b"{")
        f.truncate(200 << 20)
    refused(work, source, "model.safetensors", "header of 100 MiB")
    with open(path, "wb") as f:
        f.write(good)


def wrong_shards(work, config, weights):
    source = os.path.join(work, "shards")
    checkpoint.write(source, config, weights, shards=3)
    index = os.path.join(source, "model.safetensors.index.json")
    with open(index) as f:
        good = json.load(f)
    name, second = "model.norm.weight", "model-00002-of-00003.safetensors"

    def attempt(value, *texts):
        checkpoint.write_json(index, value)
        refused(work, source, *texts)

    def put(file):
        return {**good, "weight_map": {**good["weight_map"], name: file}}

    for climbing in ("../model.safetensors", "/etc/passwd", "a/b.safetensors", "..", ".hidden", "", "a\\b", 7):
        attempt(put(climbing), "index.json", name, "not the name of a file beside it")
    attempt(put(good["weight_map"]["lm_head.weight"]), name, "does not hold it")
    attempt({**good, "weight_map": {k: v for k, v in good["weight_map"].items() if k != name}}, "does not list", name)
    attempt({**good, "weight_map": {**good["weight_map"], "x.weight": second}}, "x.weight", "does not hold it")
    attempt({}, "no index")
    attempt({"weight_map": {}}, "no index")
    checkpoint.write_json(index, good)
    os.rename(os.path.join(source, second), os.path.join(work, "kept"))
    refused(work, source, "index.json", second, "missing")
    os.rename(os.path.join(work, "kept"), os.path.join(source, second))
    shutil.copy(os.path.join(source, second), os.path.join(source, "model-00003-of-00003.safetensors"))
    refused(work, source, "is in two files")
    shutil.rmtree(source)


def wrong_configs(work, source, config):
    path = os.path.join(source, "config.json")

    def attempt(change, *texts):
        checkpoint.write_json(path, {k: v for k, v in {**config, **change}.items() if v != "absent"})
        refused(work, source, *texts)

    attempt({"hidden_size": 128}, "model.embed_tokens.weight", "64", "128")
    attempt({"num_hidden_layers": 4}, "'model.layers.3.", "missing")
    attempt({"num_hidden_layers": 2}, "'model.layers.2.", "not part of")
    attempt({"intermediate_size": 64}, "mlp.gate_proj.weight", "96", "64")
    attempt({"num_key_value_heads": 4}, "self_attn.k_proj.weight")
    attempt({"num_key_value_heads": 3}, "n_heads 4", "n_kv_heads 3")
    attempt({"model_type": "mamba2"}, "'mamba2'",
            "known: gemma2, gemma3_text, granite, llama, mistral, phi3, qwen2, qwen3, smollm3")
    attempt({"model_type": "absent"}, "config.json", "known:")
    attempt({"num_local_experts": 8}, "mixture of experts")
    attempt({"quantization_config": {"quant_method": "awq"}}, "quantized already", "awq")
    attempt({"hidden_act": "relu"}, "'relu'", "silu")
    attempt({"hidden_size": "absent"}, "'hidden_size'", "missing")
    attempt({"num_hidden_layers": 10 ** 6}, "num_hidden_layers", "absurd")
    attempt({"hidden_size": -1}, "hidden_size")
    attempt({"rope_scaling": {"rope_type": "spiral"}}, "'spiral'", "known: linear, llama3, yarn, longrope")
    with open(path, "w") as f:
        f.write("[]")
    refused(work, source, "config.json", "no JSON object")
    os.remove(path)
    refused(work, source, "no config.json")
    refused(work, os.path.join(work, "nowhere"), "nowhere", "No such file")
    refused(work, os.path.join(source, "model.safetensors"), "is no directory", "--gguf")
    checkpoint.write_json(path, config)
    kept = os.path.join(source, "tokenizer.json")
    os.rename(kept, kept + ".kept")
    refused(work, source, "neither tokenizer.json nor tokenizer.model")
    os.rename(kept + ".kept", kept)
    os.rename(os.path.join(source, "model.safetensors"), os.path.join(work, "kept"))
    refused(work, source, "neither model.safetensors nor")
    os.rename(os.path.join(work, "kept"), os.path.join(source, "model.safetensors"))
    refused(work, os.path.join(work, "nowhere"), "nowhere")


def not_finite(work, config, weights):
    name = "model.layers.1.mlp.down_proj.weight"
    source = os.path.join(work, "bad")
    for value, word, instead in ((np.nan, "NaN", 0.0), (-np.inf, "infinity", -65504.0)):
        bad = {**weights, name: weights[name].copy()}
        bad[name][3, 17] = value
        checkpoint.write(source, config, bad, dtype="F32")
        refused(work, source, name, word, "row 3", "column 17", "--allow_nan")
        refused(work, source, name, "not finite", options=("--calibrate",))
        _, (_, values) = baked(work, source, "--allow_nan")
        got = values[name][3, 17]
        expect(np.isfinite(values[name]).all() and abs(got - instead) <= 0.01 * abs(instead), word, got)
    bad = {**weights, "model.norm.weight": np.full_like(weights["model.norm.weight"], np.nan)}
    checkpoint.write(source, config, bad, dtype="F32")
    refused(work, source, "model.norm.weight", "NaN")
    shutil.rmtree(source)


def templates(work, source):
    config = os.path.join(source, "tokenizer_config.json")
    with open(config) as f:
        good = json.load(f)
    without = {k: v for k, v in good.items() if k != "chat_template"}
    jinja, extra = (os.path.join(source, "chat_template" + end) for end in (".jinja", ".json"))

    def wanted(text, what):
        files, _ = baked(work, source, "--tokenizer_only")
        expect(files.get("chat_template.jinja") == text, what, files.get("chat_template.jinja"))

    wanted(checkpoint.NEURAL_CHAT_TEMPLATE.encode(), "in tokenizer_config.json")
    checkpoint.write_json(config, {**good, "chat_template": [{"name": "tool_use", "template": "{{ 1 }}"},
                                                             {"name": "default", "template": "{{ 2 }}"}]})
    wanted(b"{{ 2 }}", "a list of named ones")
    checkpoint.write_json(extra, {"chat_template": "{{ 3 }}"})
    wanted(b"{{ 2 }}", "before chat_template.json")
    checkpoint.write_json(config, without)
    wanted(b"{{ 3 }}", "in chat_template.json")
    with open(jinja, "w") as f:
        f.write("{{ 4 }}\n")
    wanted(b"{{ 4 }}\n", "a file of its own comes first")
    os.remove(jinja)
    os.remove(extra)
    wanted(None, "none")
    checkpoint.write_json(config, good)


def main():
    config = checkpoint.config_of("llama")
    weights = checkpoint.random_weights(config)
    with tempfile.TemporaryDirectory() as work:
        source = os.path.join(work, "model")
        checkpoint.write(source, config, weights)
        first, _ = baked(work, source)
        shutil.rmtree(source)
        checkpoint.write(source, config, weights, shards=3)
        expect(baked(work, source)[0]["weights.bin"] == first["weights.bin"], "shards give other weights")
        for name in os.listdir(source):
            if name.startswith("model"):
                os.remove(os.path.join(source, name))
        checkpoint.write(source, config, weights)
        lying_headers(work, source)
        wrong_shards(work, config, weights)
        wrong_configs(work, source, config)
        not_finite(work, config, weights)
        templates(work, source)
        expect(baked(work, source)[0] == first, "the source was changed")
    print("ok")


if __name__ == "__main__":
    main()

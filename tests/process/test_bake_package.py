"""What a bake writes: the right tensors in the right order of rows, the documented layout,
checksums, deterministic bytes, options."""
import hashlib
import json
import os
import tempfile

from support import bake
from support.bake import expect
import gguf
import numpy as np


def unpermute(values, heads):
    """Back from the order that llama.cpp's converter gives to rows of Q and K."""
    shape = values.shape
    return values.reshape(heads, shape[0] // heads // 2, 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def relative_error(actual, wanted):
    return float(np.sqrt(((actual - wanted) ** 2).sum() / (wanted ** 2).sum()))


def check_values(values, weights):
    for layer in range(bake.N_LAYERS):
        out, blk = "model.layers.%d." % layer, "blk.%d." % layer
        q = unpermute(weights[blk + "attn_q.weight"], bake.N_HEADS)
        k = unpermute(weights[blk + "attn_k.weight"], bake.N_KV_HEADS)
        pairs = {"self_attn.q_proj.weight": q, "self_attn.k_proj.weight": k,
                 "self_attn.v_proj.weight": weights[blk + "attn_v.weight"],
                 "self_attn.o_proj.weight": weights[blk + "attn_output.weight"],
                 "mlp.gate_proj.weight": weights[blk + "ffn_gate.weight"],
                 "mlp.up_proj.weight": weights[blk + "ffn_up.weight"],
                 "mlp.down_proj.weight": weights[blk + "ffn_down.weight"]}
        for name, wanted in pairs.items():
            error = relative_error(values[out + name], wanted)
            expect(0.01 < error < 0.15, name, "relative error", error)
        bias = unpermute(weights[blk + "attn_q.bias"], bake.N_HEADS)
        expect(np.array_equal(values[out + "self_attn.q_proj.bias"], bias), "q bias")
        expect(np.array_equal(values[out + "input_layernorm.weight"], weights[blk + "attn_norm.weight"]),
               "attention norm")
    embedding = relative_error(values["model.embed_tokens.weight"], weights["token_embd.weight"])
    expect(embedding < 0.01, "embedding", embedding)
    expect(np.array_equal(values["rope_freq_factors"], weights["rope_freqs.weight"]), "rope factors")


def check_layout(package):
    with open(os.path.join(package, "model.json"), "rb") as f:
        text = f.read()
    prefix = b'{\n  "checksum": "'
    expect(text.startswith(prefix), "prefix of model.json", text[:40])
    begin = len(prefix)
    zeroed = text[:begin] + b"0" * 64 + text[begin + 64:]
    expect(hashlib.sha256(zeroed).hexdigest().encode() == text[begin:begin + 64], "own checksum")
    model = json.loads(text)
    # openvino_model.bin is another name of weights.bin.
    expect(set(model["files"]) | {"model.json", "openvino_model.bin"} == set(os.listdir(package)), os.listdir(package))
    expect(os.path.samefile(os.path.join(package, "openvino_model.bin"), os.path.join(package, "weights.bin")), package)
    for name, entry in model["files"].items():
        data = open(os.path.join(package, name), "rb").read()
        expect(len(data) == entry["size"], name, "size")
        expect(hashlib.sha256(data).hexdigest() == entry["sha256"], name, "sha256")
    end = 0
    for t in model["tensors"]:
        for offset, size in ((t["offset"], t["bytes"]), (t.get("scale_offset"), t.get("scale_bytes"))):
            if offset is None:
                continue
            align = 4096 if size >= 4096 else 64
            expect(offset % align == 0 and offset >= end, t["name"], offset, end)
            end = offset + size
        expect(t["dtype"] == ("f32" if len(t["shape"]) == 1 else
                              "i8" if "embed" in t["name"] else "i4"), t)
    expect(end == model["files"]["weights.bin"]["size"], "end of weights.bin", end)
    return model


def group_sizes(model):
    return {t["name"].split(".")[-2]: t.get("group_size") for t in model["tensors"]
            if len(t["shape"]) == 2}


def main():
    with tempfile.TemporaryDirectory() as work:
        source, weights = os.path.join(work, "small.gguf"), bake.random_weights()
        bake.write_gguf(source, weights)
        first, second = os.path.join(work, "first"), os.path.join(work, "second")
        result = bake.run("--gguf", source, "--output", first, "--json")
        expect(result.returncode == 0, result.stderr)
        report = json.loads(result.stdout)
        expect(report["path"] == first and report["tensors"] == len(weights), report)
        expect(report["peak_rss_bytes"] > 0 and report["relative_error"]["mlp"] < 0.15, report)
        model = check_layout(first)
        check_values(bake.load_package(first)[1], weights)
        groups = group_sizes(model)
        expect(groups["q_proj"] == 128 and groups["down_proj"] == 32, groups)
        params = model["params"]
        expect(params["tied_embedding"] is True and params["head_dim"] == bake.HEAD_DIM, params)
        expect(model["source"]["sha256"] == hashlib.sha256(open(source, "rb").read()).hexdigest(),
               model["source"])

        # The same source gives the same bytes, whatever the output's name.
        expect(bake.run("--gguf", source, "--output", second + "/").returncode == 0, "second bake")
        expect(bake.files_of(first) == bake.files_of(second), "two bakes differ")

        # A package is replaced only when asked to.
        refused = bake.run("--gguf", source, "--output", first, "--group_size", "32")
        expect(refused.returncode == 1 and "--overwrite" in refused.stderr, refused)
        expect(bake.files_of(first) == bake.files_of(second), "a refused bake changed the package")
        bake.run("--gguf", source, "--output", first, "--group-size=32", "--overwrite",
                 "--max_context", "100")
        model = check_layout(first)
        expect(group_sizes(model)["q_proj"] == 32, group_sizes(model))
        expect(model["params"]["context_length"] == 100, model["params"])
        expect(not os.path.exists(first + ".partial"), "partial directory is left")

        # One group per row; a separate head.
        weights["output.weight"] = weights["token_embd.weight"] * 2
        bake.write_gguf(source, weights, quantize=gguf.GGMLQuantizationType.Q8_0)
        expect(bake.run("--gguf", source, "--output", first, "--group_size", "-1",
                        "--overwrite").returncode == 0, "per row")
        model, values = bake.load_package(first)
        expect(group_sizes(model)["down_proj"] == bake.D_FF, group_sizes(model))
        expect(not model["params"]["tied_embedding"], model["params"])
        expect(relative_error(values["lm_head.weight"], weights["output.weight"]) < 0.02, "head")

        only = os.path.join(work, "tokenizer")
        expect(bake.run("--gguf", source, "--output", only, "--tokenizer_only").returncode == 0, "only")
        expect(sorted(os.listdir(only)) == ["chat_template.jinja", "model.json", "tokenizer.bin"],
               os.listdir(only))
        expect(open(os.path.join(only, "chat_template.jinja")).read() == "{{ messages[0].content }}",
               "template")
    print("ok")


if __name__ == "__main__":
    main()

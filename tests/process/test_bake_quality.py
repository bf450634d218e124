"""Calibrated bakes: what they write, that they are deterministic, better than data-free ones on the
text they are fitted to, and refuse bad text. Kept quantization: every element as in the source."""
import json
import os
import tempfile
import xml.etree.ElementTree

from support import bake
from support.bake import expect
import gguf
import numpy as np

TYPES = gguf.GGMLQuantizationType


def unpermute(values, heads):
    """Back from the order that llama.cpp's converter gives to rows of Q and K."""
    shape = values.shape
    return values.reshape(heads, shape[0] // heads // 2, 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def check_kept(work, kind, dtype):
    source, output = os.path.join(work, "kept.gguf"), os.path.join(work, "kept")
    weights = bake.random_weights()
    bake.write_gguf(source, weights, quantize=kind)
    result = bake.run("--gguf", source, "--output", output, "--keep_quantization", "--overwrite", "--json")
    expect(result.returncode == 0, result.stderr)
    check = bake.run("--check", output)
    for said, what in ((result.stderr, "without --keep_quantization they are written"),
                       (check.stdout + check.stderr, "'bake_model --gguf FILE.gguf --output DIR' without --keep_q")):
        expect((what in said) == (dtype == "i4m"), kind, said)
    expect(check.returncode == (dtype == "i4m"), check)
    model, values = bake.load_package(output)
    matrices = [t for t in model["tensors"] if len(t["shape"]) == 2]
    expect(all(t["dtype"] == dtype and t["group_size"] == 32 for t in matrices), matrices)
    wanted = {name: gguf.dequantize(gguf.quantize(w, kind), kind) for name, w in weights.items() if w.ndim == 2}
    for layer in range(bake.N_LAYERS):
        out, blk = "model.layers.%d." % layer, "blk.%d." % layer
        for name, value in (("self_attn.q_proj", unpermute(wanted[blk + "attn_q.weight"], bake.N_HEADS)),
                            ("self_attn.k_proj", unpermute(wanted[blk + "attn_k.weight"], bake.N_KV_HEADS)),
                            ("self_attn.v_proj", wanted[blk + "attn_v.weight"]),
                            ("self_attn.o_proj", wanted[blk + "attn_output.weight"]),
                            ("mlp.gate_proj", wanted[blk + "ffn_gate.weight"]),
                            ("mlp.up_proj", wanted[blk + "ffn_up.weight"]),
                            ("mlp.down_proj", wanted[blk + "ffn_down.weight"])):
            expect(np.array_equal(values[out + name + ".weight"], value), kind, out + name, "differs")
    expect(np.array_equal(values["model.embed_tokens.weight"], wanted["token_embd.weight"]), "embedding")


def calibrate(source, output, text, *more):
    result = bake.run("--gguf", source, "--output", output, "--calibrate", text, "--json", *more)
    expect(result.returncode == 0, result.stderr)
    return json.loads(result.stdout)


def check_calibrated(work):
    source, text = os.path.join(work, "small.gguf"), os.path.join(work, "text")
    weights = bake.random_weights()
    for name, w in weights.items():
        if w.ndim == 2:
            w /= np.sqrt(np.float32(w.shape[1]))
    bake.write_gguf(source, weights)
    with open(text, "w") as f:
        f.write("".join("%d times the thing that they think: %s\n" % (i, "oath, bath, path"[i % 13:]) for i in range(90)))
    first, second = os.path.join(work, "first"), os.path.join(work, "second")
    report = calibrate(source, first, text)
    model, values = bake.load_package(first)
    quantization = model["quantization"]
    expect("GPTQ" in quantization["method"] and quantization["calibration_text"] == "own", quantization)
    expect(2000 < quantization["calibration_tokens"] < 6000, quantization)
    loss = quantization["loss"]
    expect(set(loss["increase_by_kind"]) == {"prose", "manual", "code", "dialogue"}, loss)
    expect(loss["tokens"] > 1000 and 0 < abs(loss["increase"]) < 0.2, loss)
    expect(abs(loss["perplexity"] / loss["source_perplexity"] - 1 - loss["increase"]) < 1e-3, loss)
    expect(report["loss"] == loss, report)
    dtypes = {t["dtype"] for t in model["tensors"] if len(t["shape"]) == 2}
    expect(dtypes == {"i4", "i8"}, dtypes)
    # Close to the source, but not where plain rounding is: errors make up for each other.
    for layer in range(bake.N_LAYERS):
        wanted = weights["blk.%d.ffn_down.weight" % layer]
        got = values["model.layers.%d.mlp.down_proj.weight" % layer]
        error = float(np.sqrt(((got - wanted) ** 2).sum() / (wanted ** 2).sum()))
        expect(0.05 < error < 0.5, "down", layer, error)

    # Two passes: the first measures, the second has the most sensitive matrices at INT8.
    mixed = os.path.join(work, "calibrated_mixed")
    report = calibrate(source, mixed, text, "--mixed", "20", "--report")
    wide = [m for m in report["matrices"] if "layers" in m["name"] and m["dtype"] == "i8"]
    narrow = [m for m in report["matrices"] if m["dtype"] == "i4"]
    expect(0 < len(wide) < len(narrow), report["matrices"])
    expect(all(m["output_error"] is None and m["weight_error"] < 0.3 for m in wide), wide)
    expect(all(0 < m["output_error"] < 0.3 for m in narrow), narrow)
    expect(bake.load_package(mixed)[0]["quantization"]["weights"] == "i4, sensitive ones i8", "weights")

    calibrate(source, second, text, "--output", second)
    expect(bake.files_of(first) == bake.files_of(second), "two calibrated bakes differ")

    short = os.path.join(work, "short")
    for content, message in ((b"the", "too short"), (b"abc\xff" * 100, "UTF-8")):
        with open(short, "wb") as f:
            f.write(content)
        result = bake.run("--gguf", source, "--output", second, "--overwrite", "--calibrate", short)
        expect(result.returncode == 1 and message in result.stderr and "short" in result.stderr, result)
    missing = bake.run("--gguf", source, "--output", second, "--overwrite", "--calibrate", short + "er")
    expect(missing.returncode == 1 and "shorter" in missing.stderr, missing)
    expect(bake.files_of(first) == bake.files_of(second), "a failed bake changed the package")
    for other in ("--keep_quantization", "--data_free"):
        result = bake.run("--gguf", source, "--output", second, "--calibrate", other)
        expect(result.returncode == 2 and other in result.stderr, result)


def check_mixed_and_report(work):
    source, output = os.path.join(work, "mixed.gguf"), os.path.join(work, "mixed")
    plot = os.path.join(work, "plot <&>.svg")
    bake.write_gguf(source, bake.random_weights())
    sizes = {}
    for percent in (None, "5", "40"):
        mixed = ["--mixed", percent] if percent else []
        result = bake.run("--gguf", source, "--output", output, "--overwrite", "--json", "--report", plot,
                          "--data_free", *mixed)
        expect(result.returncode == 0, result.stderr)
        matrices = json.loads(result.stdout)["matrices"]
        model, _ = bake.load_package(output)
        dtypes = {t["name"]: t["dtype"] for t in model["tensors"] if len(t["shape"]) == 2}
        expect({m["name"]: m["dtype"] for m in matrices} == dtypes, matrices)
        expect(all(0 < m["weight_error"] < (0.01 if m["dtype"] == "i8" else 0.15) for m in matrices), matrices)
        expect(all(m["output_error"] is None for m in matrices), matrices)
        layers = [m for m in matrices if "layers" in m["name"]]
        sizes[percent] = sum(m["bytes"] for m in layers)
        wide = [m["name"] for m in layers if m["dtype"] == "i8"]
        expect(not wide if percent is None else any("v_proj" in n for n in wide), percent, wide)
        root = xml.etree.ElementTree.parse(plot).getroot()
        dots = [e for e in root.iter() if e.tag.endswith("circle")]
        expect(root.tag.endswith("svg") and len(dots) == len(layers), len(dots))
    expect(sizes[None] < sizes["5"] <= 1.05 * sizes[None] < sizes["40"] <= 1.4 * sizes[None], sizes)
    table = bake.run("--gguf", source, "--output", output, "--overwrite", "--report", "--data_free")
    expect(table.stdout.count("_proj.weight") == 7 * bake.N_LAYERS and "%" in table.stdout, table.stdout)
    for bad in ("0", "x", "101", "nan"):
        result = bake.run("--gguf", source, "--output", output, "--mixed=" + bad)
        expect(result.returncode == 2 and "--mixed" in result.stderr, bad, result)
    unwritable = bake.run("--gguf", source, "--output", output, "--overwrite", "--report",
                          os.path.join(work, "nowhere", "plot.svg"), "--data_free")
    expect(unwritable.returncode == 1 and "the package is complete" in unwritable.stderr, unwritable)


def main():
    with tempfile.TemporaryDirectory() as work:
        for kind, dtype in ((TYPES.Q4_0, "i4"), (TYPES.Q4_1, "i4m"), (TYPES.Q8_0, "i8")):
            check_kept(work, kind, dtype)
        check_calibrated(work)
        check_mixed_and_report(work)
    print("ok")


if __name__ == "__main__":
    main()

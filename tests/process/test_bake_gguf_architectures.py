"""The same model as a checkpoint of the hub and as GGUF gives the same package, for every architecture that
GGUF has a name of its own for. What llama.cpp's converter does to names, rows and norms is done here."""
import math
import os
import tempfile

from support import bake, checkpoint
from support.bake import expect
import gguf
import numpy as np

CHANGES = {
    "qwen2": {"use_sliding_window": False}, "qwen3": {},
    "phi3": {}, "granite": {},
    "gemma2": {"query_pre_attn_scalar": 32},
    "gemma3_text": {"query_pre_attn_scalar": 32, "num_hidden_layers": 7, "sliding_window_pattern": 6,
                    "rope_local_base_freq": 10000.0},
    "smollm3": {"num_hidden_layers": 5, "no_rope_layers": [1, 1, 1, 0, 1]},
}
NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.qkv_proj": "attn_qkv",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.gate_up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def gguf_name(name, gemma):
    if not name.startswith("model.layers."):
        return {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
                "lm_head.weight": "output.weight"}[name]
    layer, rest = name[len("model.layers."):].split(".", 1)
    part, suffix = rest.rsplit(".", 1)
    norms = {"post_attention_layernorm": "post_attention_norm" if gemma else "ffn_norm",
             "pre_feedforward_layernorm": "ffn_norm"}
    return "blk.%s.%s.%s" % (layer, {**NAMES, **norms}[part], suffix)


def permute(values, heads):
    shape = values.shape
    return values.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def write_gguf(path, config, weights):
    kind = config["model_type"].replace("_text", "")
    w = gguf.GGUFWriter(path, kind)
    w.add_block_count(config["num_hidden_layers"])
    w.add_context_length(config["max_position_embeddings"])
    w.add_embedding_length(config["hidden_size"])
    w.add_feed_forward_length(config["intermediate_size"])
    w.add_head_count(config["num_attention_heads"])
    w.add_head_count_kv(config["num_key_value_heads"])
    w.add_key_length(checkpoint.head_dim(config))
    w.add_value_length(checkpoint.head_dim(config))
    w.add_layer_norm_rms_eps(config["rms_norm_eps"])
    w.add_rope_freq_base(config["rope_theta"])
    w.add_rope_dimension_count(checkpoint.head_dim(config))
    if kind in ("phi3", "gemma2", "gemma3"):
        w.add_sliding_window(config["sliding_window"])
    if kind == "gemma2":
        w.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        w.add_final_logit_softcapping(config["final_logit_softcapping"])
    if kind == "gemma3":
        w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        w.add_rope_scaling_factor(config["rope_scaling"]["factor"])
    if kind == "granite":
        w.add_embedding_scale(config["embedding_multiplier"])
        w.add_residual_scale(config["residual_multiplier"])
        w.add_attention_scale(config["attention_multiplier"])
        w.add_logit_scale(config["logits_scaling"])
    if kind == "phi3":
        old = config["original_max_position_embeddings"]
        w.add_rope_scaling_orig_ctx_len(old)
        w.add_rope_scaling_attn_factors(
            math.sqrt(1 + math.log(config["max_position_embeddings"] / old) / math.log(old)))
        for name in ("long", "short"):
            w.add_tensor("rope_factors_%s.weight" % name,
                         np.array(config["rope_scaling"][name + "_factor"], np.float32))
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list(bake.tokens())
    w.add_token_types([1] * 257 + [3])
    w.add_token_merges(["t h"])
    w.add_eos_token_id(257)
    gemma = kind.startswith("gemma")
    for name, values in weights.items():
        if kind in ("granite", "smollm3") and ("q_proj" in name or "k_proj" in name):
            heads = config["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
            values = permute(values, heads)
        if gemma and "norm" in name:
            values = values + 1
        w.add_tensor(gguf_name(name, gemma), np.ascontiguousarray(values, np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def same_params(name, a, b, head_dim):
    default = 1 / math.sqrt(head_dim)
    for params in (a, b):
        params.pop("name")
        if abs(params.get("attention_scale", default) - default) < 1e-6:
            params.pop("attention_scale", None)
    expect(a.keys() == b.keys(), name, a, b)
    for key in a:
        near = isinstance(a[key], float) and abs(a[key] - b[key]) <= 1e-6 * abs(a[key])
        if key == "rope" and "attention_factor" in a[key]:
            near = all(v == b[key][k] or abs(v - b[key][k]) < 1e-6 for k, v in a[key].items())
        expect(a[key] == b[key] or near, name, key, a[key], b[key])


def main():
    with tempfile.TemporaryDirectory() as work:
        for name, change in CHANGES.items():
            config = checkpoint.config_of(name, **change)
            weights = checkpoint.random_weights(config)
            source, file = os.path.join(work, name), os.path.join(work, name + ".gguf")
            checkpoint.write(source, config, weights, dtype="F32")
            write_gguf(file, config, weights)
            packages = []
            for i, arguments in enumerate((("--model_dir", source), ("--gguf", file))):
                packages.append(os.path.join(work, "%s.%d" % (name, i)))
                done = bake.run(*arguments, "--output", packages[i], "--data_free")
                expect(done.returncode == 0, name, done.stderr)
            (model, values), (other, others) = (bake.load_package(p) for p in packages)
            same_params(name, model["params"], other["params"], checkpoint.head_dim(config))
            expect(model["architecture"] == other["architecture"], model["architecture"], other["architecture"])
            expect(values.keys() - {"graph_constants"} == others.keys() - {"graph_constants"}, name,
                   values.keys() ^ others.keys())
            for key in values:
                if key != "graph_constants":
                    expect(np.allclose(values[key], others[key], rtol=1e-6, atol=0), name, key)
    print("ok")


if __name__ == "__main__":
    main()

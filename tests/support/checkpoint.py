"""Small checkpoints as the hub keeps them, of every architecture that bake_model knows, with random
weights: config.json, safetensors, tokenizer, chat template."""
import json
import math
import os
import struct

import numpy as np

NEURAL_CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'system' %}### System:\n{{ message['content'] }}\n"
    "{% elif message['role'] == 'user' %}### User:\n{{ message['content'] }}\n"
    "{% elif message['role'] == 'assistant' %}### Assistant:\n{{ message['content'] }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}### Assistant:\n{% endif %}")

BASE = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 96, "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "vocab_size": 320}

# What distinguishes each architecture, with values at which it shows in the logits.
CONFIGS = {
    "llama": {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu",
              "rope_theta": 10000.0, "tie_word_embeddings": False, "attention_bias": False,
              "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                               "high_freq_factor": 4.0, "original_max_position_embeddings": 64}},
    "mistral": {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "hidden_act": "silu",
                "rope_theta": 10000.0, "tie_word_embeddings": False, "sliding_window": 12},
    "qwen2": {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_act": "silu",
              "rope_theta": 1000000.0, "tie_word_embeddings": True, "use_sliding_window": True,
              "sliding_window": 10, "max_window_layers": 1},
    "qwen3": {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "hidden_act": "silu",
              "rope_theta": 1000000.0, "tie_word_embeddings": True, "head_dim": 32,
              "use_sliding_window": False, "sliding_window": None, "max_window_layers": 28},
    "phi3": {"model_type": "phi3", "architectures": ["Phi3ForCausalLM"], "hidden_act": "silu",
             "rope_theta": 10000.0, "tie_word_embeddings": False, "sliding_window": 20,
             "original_max_position_embeddings": 128,
             "rope_scaling": {"type": "longrope",
                              "short_factor": [1.0 + 0.05 * i for i in range(8)],
                              "long_factor": [1.5 + 0.5 * i for i in range(8)]}},
    "gemma2": {"model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"], "head_dim": 32,
               "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 24, "sliding_window": 9,
               "attn_logit_softcapping": 3.0, "final_logit_softcapping": 2.0, "rope_theta": 10000.0},
    "gemma3_text": {"model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], "head_dim": 32,
                    "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 24,
                    "sliding_window": 9, "sliding_window_pattern": 3, "rope_theta": 1000000.0,
                    "rope_local_base_freq": 500.0, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    "smollm3": {"model_type": "smollm3", "architectures": ["SmolLM3ForCausalLM"], "hidden_act": "silu",
                "rope_theta": 50000.0, "tie_word_embeddings": True, "no_rope_layers": [1, 0, 1]},
    "granite": {"model_type": "granite", "architectures": ["GraniteForCausalLM"], "hidden_act": "silu",
                "rope_theta": 10000.0, "tie_word_embeddings": True, "embedding_multiplier": 6.0,
                "attention_multiplier": 0.11, "residual_multiplier": 0.4, "logits_scaling": 3.0},
}


def config_of(architecture, **changes):
    return {**BASE, **CONFIGS[architecture], **changes}


def head_dim(config):
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def tied(config):
    return config.get("tie_word_embeddings", config["model_type"].startswith("gemma"))


def shapes(config):
    """Name and shape of every tensor, as the transformers library names them."""
    d, ff = config["hidden_size"], config["intermediate_size"]
    q, kv = config["num_attention_heads"] * head_dim(config), config["num_key_value_heads"] * head_dim(config)
    kind, result = config["model_type"], [("model.embed_tokens.weight", (config["vocab_size"], d))]
    for i in range(config["num_hidden_layers"]):
        p = "model.layers.%d." % i
        if kind == "phi3":
            result += [(p + "self_attn.qkv_proj.weight", (q + 2 * kv, d)),
                       (p + "mlp.gate_up_proj.weight", (2 * ff, d))]
        else:
            result += [(p + "self_attn.q_proj.weight", (q, d)), (p + "self_attn.k_proj.weight", (kv, d)),
                       (p + "self_attn.v_proj.weight", (kv, d)),
                       (p + "mlp.gate_proj.weight", (ff, d)), (p + "mlp.up_proj.weight", (ff, d))]
        if kind == "qwen2":
            result += [(p + "self_attn.q_proj.bias", (q,)), (p + "self_attn.k_proj.bias", (kv,)),
                       (p + "self_attn.v_proj.bias", (kv,))]
        if kind in ("qwen3", "gemma3_text"):
            result += [(p + "self_attn.q_norm.weight", (head_dim(config),)),
                       (p + "self_attn.k_norm.weight", (head_dim(config),))]
        if kind.startswith("gemma"):
            result += [(p + "pre_feedforward_layernorm.weight", (d,)),
                       (p + "post_feedforward_layernorm.weight", (d,))]
        result += [(p + "self_attn.o_proj.weight", (d, q)), (p + "mlp.down_proj.weight", (d, ff)),
                   (p + "input_layernorm.weight", (d,)), (p + "post_attention_layernorm.weight", (d,))]
    result.append(("model.norm.weight", (d,)))
    if not tied(config):
        result.append(("lm_head.weight", (config["vocab_size"], d)))
    return result


def random_weights(config, seed=1, scale=1.0):
    """Values of bf16 precision, so that every float type of the format holds them."""
    rng = np.random.default_rng(seed)
    result = {}
    for name, shape in shapes(config):
        values = rng.standard_normal(shape).astype(np.float32)
        if "norm" in name:
            values = values * 0.2 + (0 if config["model_type"].startswith("gemma") else 1)
        else:
            values = values * (scale * 1.6 / math.sqrt(shape[-1]) if len(shape) == 2 else 0.3)
        result[name] = from_bf16(to_bf16(values.astype(np.float32)))
    return result


def to_bf16(values):
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(values):
    return (values.astype(np.uint32) << 16).view(np.float32)


def encode(values, dtype):
    return {"BF16": to_bf16, "F16": lambda v: v.astype(np.float16),
            "F32": lambda v: v.astype(np.float32)}[dtype](values).tobytes()


def safetensors_bytes(weights, dtype="BF16", metadata=True):
    header, data = ({"__metadata__": {"format": "pt"}} if metadata else {}), []
    at = 0
    for name in sorted(weights):
        raw = encode(weights[name], dtype)
        header[name] = {"dtype": dtype, "shape": list(weights[name].shape), "data_offsets": [at, at + len(raw)]}
        data.append(raw)
        at += len(raw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(data)


def byte_alphabet():
    """The 256 characters that byte-level BPE writes for bytes."""
    keep = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    others = [b for b in range(256) if b not in keep]
    return [chr(b) for b in keep] + [chr(256 + i) for i in range(len(others))]


def byte_level_tokenizer():
    """tokenizer.json of the byte-level kind: 256 bytes, two merges, three special tokens."""
    tokens = byte_alphabet() + ["th", "the"]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": len(tokens) + i, "content": text, "single_word": False, "lstrip": False,
                          "rstrip": False, "normalized": False, "special": True}
                         for i, text in enumerate(special)],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                          "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                  "vocab": {text: i for i, text in enumerate(tokens)}, "merges": ["t h", "th e"]},
    }


def write_json(path, value):
    with open(path, "w") as f:
        json.dump(value, f)


def write_tokenizer(directory, template=NEURAL_CHAT_TEMPLATE):
    write_json(os.path.join(directory, "tokenizer.json"), byte_level_tokenizer())
    write_json(os.path.join(directory, "tokenizer_config.json"),
               {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>",
                "bos_token": "<|endoftext|>", "chat_template": template})


def write(directory, config, weights, dtype="BF16", shards=1):
    """A checkpoint with a byte-level tokenizer; `shards` > 1 cuts it into files with an index."""
    os.makedirs(directory, exist_ok=True)
    write_json(os.path.join(directory, "config.json"), config)
    write_tokenizer(directory)
    if shards == 1:
        with open(os.path.join(directory, "model.safetensors"), "wb") as f:
            f.write(safetensors_bytes(weights, dtype))
        return
    names, index = sorted(weights), {}
    for i in range(shards):
        part = names[len(names) * i // shards:len(names) * (i + 1) // shards]
        file = "model-%05d-of-%05d.safetensors" % (i + 1, shards)
        with open(os.path.join(directory, file), "wb") as f:
            f.write(safetensors_bytes({name: weights[name] for name in part}, dtype))
        index.update({name: file for name in part})
    write_json(os.path.join(directory, "model.safetensors.index.json"),
               {"metadata": {"total_size": 0}, "weight_map": index})

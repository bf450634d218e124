"""The forward pass of the models that bake_model knows, in float64 numpy, from a checkpoint's own names and
config.json, after the modeling files of the HF transformers library. Independent of the project's C."""
import math

import numpy as np


def silu(x):
    return x / (1 + np.exp(-x))


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))


def inverse_frequencies(config, dims, base, scaling, length):
    """(frequencies [dims / 2], factor of cos and sin)"""
    f = 1.0 / base ** (np.arange(0, dims, 2) / dims)
    kind = (scaling or {}).get("rope_type", (scaling or {}).get("type"))
    if kind is None:
        return f, 1.0
    if kind == "linear":
        return f / scaling["factor"], 1.0
    if kind == "llama3":
        factor, old = scaling["factor"], scaling["original_max_position_embeddings"]
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        wavelength = 2 * math.pi / f
        smooth = (old / wavelength - low) / (high - low)
        middle = (1 - smooth) * f / factor + smooth * f
        return np.where(wavelength > old / low, f / factor, np.where(wavelength < old / high, f, middle)), 1.0
    if kind == "longrope":
        old = config["original_max_position_embeddings"]
        factor = config["max_position_embeddings"] / old
        ext = scaling["long_factor"] if length > old else scaling["short_factor"]
        attention = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(old))
        return f / np.array(ext), attention
    raise ValueError(kind)


def window_of(config, layer):
    """Tokens that the layer sees, or None."""
    kind, window = config["model_type"], config.get("sliding_window")
    if kind in ("mistral", "phi3"):
        return window
    if kind == "qwen2":
        return window if config["use_sliding_window"] and layer >= config["max_window_layers"] else None
    if kind == "gemma2":
        return window if layer % 2 == 0 else None
    if kind == "gemma3_text":
        return window if (layer + 1) % config["sliding_window_pattern"] else None
    return None


class Oracle:
    def __init__(self, config, weights, length):
        self.config, self.w = config, {name: value.astype(np.float64) for name, value in weights.items()}
        self.kind = config["model_type"]
        self.heads, self.kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        self.head_dim = config.get("head_dim") or config["hidden_size"] // self.heads
        base, scaling = config["rope_theta"], config.get("rope_scaling")
        self.rope = inverse_frequencies(config, self.head_dim, base, scaling, length)
        self.local = (inverse_frequencies(config, self.head_dim, config["rope_local_base_freq"], None, length)
                      if self.kind == "gemma3_text" else self.rope)

    def norm(self, x, name):
        scale = 1 / np.sqrt((x ** 2).mean(-1, keepdims=True) + self.config["rms_norm_eps"])
        weight = self.w[name]
        return x * scale * (1 + weight if self.kind.startswith("gemma") else weight)

    def linear(self, x, name):
        y = x @ self.w[name + ".weight"].T
        return y + self.w[name + ".bias"] if name + ".bias" in self.w else y

    def rotated(self, x, layer):
        """x: [n, heads, head_dim]"""
        if self.kind == "smollm3" and not self.config["no_rope_layers"][layer]:
            return x
        frequencies, factor = self.local if window_of(self.config, layer) and self.kind == "gemma3_text" else self.rope
        angles = np.arange(len(x))[:, None] * frequencies
        cos = (np.concatenate([np.cos(angles)] * 2, -1) * factor)[:, None]
        sin = (np.concatenate([np.sin(angles)] * 2, -1) * factor)[:, None]
        half = self.head_dim // 2
        turned = np.concatenate([-x[..., half:], x[..., :half]], -1)
        return x * cos + turned * sin

    def attention(self, x, layer):
        n, p = len(x), "model.layers.%d.self_attn." % layer
        if self.kind == "phi3":
            q_size, kv_size = self.heads * self.head_dim, self.kv_heads * self.head_dim
            q, k, v = np.split(self.linear(x, p + "qkv_proj"), [q_size, q_size + kv_size], -1)
        else:
            q, k, v = (self.linear(x, p + name) for name in ("q_proj", "k_proj", "v_proj"))
        q, k, v = (t.reshape(n, -1, self.head_dim) for t in (q, k, v))
        if p + "q_norm.weight" in self.w:
            q, k = self.norm(q, p + "q_norm.weight"), self.norm(k, p + "k_norm.weight")
        q, k = self.rotated(q, layer), self.rotated(k, layer)
        k, v = (np.repeat(t, self.heads // self.kv_heads, 1) for t in (k, v))
        scale = 1 / math.sqrt(self.head_dim)
        if self.kind.startswith("gemma"):
            scale = self.config["query_pre_attn_scalar"] ** -0.5
        scale = self.config.get("attention_multiplier", scale)
        scores = np.einsum("qhd,khd->hqk", q, k) * scale
        cap = self.config.get("attn_logit_softcapping")
        scores = np.tanh(scores / cap) * cap if cap else scores
        i, j = np.arange(n)[:, None], np.arange(n)[None]
        window = window_of(self.config, layer) or n + 1
        scores = np.where((j <= i) & (j > i - window), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return self.linear(np.einsum("hqk,khd->qhd", weights, v).reshape(n, -1), p + "o_proj")

    def mlp(self, x, layer):
        p = "model.layers.%d.mlp." % layer
        if self.kind == "phi3":
            gate, up = np.split(self.linear(x, p + "gate_up_proj"), 2, -1)
        else:
            gate, up = self.linear(x, p + "gate_proj"), self.linear(x, p + "up_proj")
        act = gelu_tanh if self.kind.startswith("gemma") else silu
        return self.linear(act(gate) * up, p + "down_proj")

    def logits(self, tokens):
        x = self.w["model.embed_tokens.weight"][tokens]
        if self.kind.startswith("gemma"):
            x = x * math.sqrt(self.config["hidden_size"])
        x = x * self.config.get("embedding_multiplier", 1.0)
        residual = self.config.get("residual_multiplier", 1.0)
        for layer in range(self.config["num_hidden_layers"]):
            p, gemma = "model.layers.%d." % layer, self.kind.startswith("gemma")
            y = self.attention(self.norm(x, p + "input_layernorm.weight"), layer)
            x = x + residual * (self.norm(y, p + "post_attention_layernorm.weight") if gemma else y)
            before = "pre_feedforward_layernorm" if gemma else "post_attention_layernorm"
            y = self.mlp(self.norm(x, p + before + ".weight"), layer)
            x = x + residual * (self.norm(y, p + "post_feedforward_layernorm.weight") if gemma else y)
        head = self.w.get("lm_head.weight", self.w["model.embed_tokens.weight"])
        logits = self.norm(x, "model.norm.weight") @ head.T / self.config.get("logits_scaling", 1.0)
        cap = self.config.get("final_logit_softcapping")
        return np.tanh(logits / cap) * cap if cap else logits

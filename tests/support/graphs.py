"""Runs a package's static graphs in stock OpenVINO from Python: the oracle for graphs and backend.

The strips are numpy arrays; past rows and new rows are bound to them in place, and every row that
no token has filled yet holds NaN, so that a mask that lets one through is seen."""
import json
import os
import sys

import numpy as np

POISON = np.nan
MASKED = -30000.0
MATRICES = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj",
            "o": "self_attn.o_proj", "gate": "mlp.gate_proj", "up": "mlp.up_proj",
            "down": "mlp.down_proj"}


def openvino():
    try:
        import openvino as ov
        return ov
    except ImportError as error:
        print("skipped: OpenVINO is not installed:", error)
        sys.exit(77)


class Package:
    def __init__(self, directory):
        self.ov = openvino()
        self.directory = directory
        with open(os.path.join(directory, "model.json")) as f:
            model = json.load(f)
        self.params, self.files = model["params"], model["files"]
        self.tensors = {t["name"]: t for t in model["tensors"]}
        self.weights = np.memmap(os.path.join(directory, "weights.bin"), dtype=np.uint8, mode="r")
        self.core = self.ov.Core()
        self.compiled = {}

    def read(self, name):
        return self.core.read_model(os.path.join(self.directory, name),
                                    os.path.join(self.directory, "weights.bin"))

    def compile(self, name):
        if name not in self.compiled:
            self.compiled[name] = self.core.compile_model(
                self.read(name), "CPU", {"INFERENCE_PRECISION_HINT": "f32",
                                         "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0})
        return self.compiled[name]

    def raw(self, name, scale=False):
        t = self.tensors[name]
        offset, size = ((t["scale_offset"], t["scale_bytes"]) if scale
                        else (t["offset"], t["bytes"]))
        return self.weights[offset:offset + size]

    def floats(self, name):
        """A tensor dequantized."""
        t = self.tensors[name]
        if t["dtype"] == "f32":
            return self.raw(name).view(np.float32).reshape(t["shape"])
        n, k = t["shape"]
        group = t["group_size"]
        scales = self.raw(name, True).view(np.float16).astype(np.float32).reshape(n, k // group, 1)
        q = self.raw(name).view(np.int8).reshape(n, k // group, group)
        assert t["dtype"] == "i8", t
        return (q * scales).reshape(n, k)

    def rope(self, begin, n):
        rope = self.params["rope"]
        assert rope["scaling"] == "none", rope
        half = rope["dims"] // 2
        inverse = rope["base"] ** (-np.arange(half, dtype=np.float64) * 2 / rope["dims"])
        if "rope_freq_factors" in self.tensors:
            inverse /= self.floats("rope_freq_factors")
        angle = np.arange(begin, begin + n)[:, None] * inverse[None]
        cos, sin = np.cos(angle), np.sin(angle)
        return [np.concatenate(pair, -1).astype(np.float32).reshape(1, n, 1, 2 * half)
                for pair in ((cos, cos), (sin, sin))]


def masks(position, tokens, past):
    """Causal; past rows from `position` on are not there."""
    now = np.where(np.tri(tokens, dtype=bool), 0, MASKED).astype(np.float32)
    before = np.where(np.arange(past) < position, 0, MASKED).astype(np.float32)
    return now.reshape(1, 1, tokens, tokens), np.broadcast_to(before, (1, 1, tokens, past)).copy()


class Sequence:
    """One sequence over strips of `rows` rows."""

    def __init__(self, package, rows):
        p = package.params
        self.package, self.position, self.bound = package, 0, []
        shape = (p["n_layers"], 2, rows, p["n_kv_heads"], p["head_dim"])
        self.strips = np.full(shape, POISON, np.float16)

    def tensor(self, array, type_=None, shape=None):
        """Shares the array's memory, which a request does not keep alive: this object does."""
        ov = self.package.ov
        self.bound.append(array)
        if type_ is None:
            return ov.Tensor(array, shared_memory=True)
        return ov.Tensor(array, shape, type_)

    def rows(self, layer, which, begin, n):
        return self.tensor(self.strips[layer, which, begin:begin + n][None])

    def common(self, request, tokens, past):
        cos, sin = self.package.rope(self.position, tokens)
        now, before = masks(self.position, tokens, past)
        inputs = {"cos": cos, "sin": sin, "mask": now}
        if past:
            inputs["mask_past"] = before
            filled = np.arange(past) < self.position
            inputs["past_rows"] = filled.astype(np.float32).reshape(1, past, 1, 1)
        for name, value in inputs.items():
            request.set_tensor(name, self.tensor(value))

    def bind_matrix(self, request, layer, short, long):
        ov, package = self.package.ov, self.package
        name = "model.layers.%d.%s" % (layer, long)
        t = package.tensors[name + ".weight"]
        n, k = t["shape"]
        group = t["group_size"]
        kinds = {"i4": ov.Type.i4, "i8": ov.Type.i8}
        wide = [n, k] if group == k else [n, k // group, group]
        request.set_tensor(short + ".weight",
                           self.tensor(np.array(package.raw(name + ".weight")), kinds[t["dtype"]], wide))
        scale = np.array(package.raw(name + ".weight", True)).view(np.float16)
        request.set_tensor(short + ".scale",
                           self.tensor(scale.reshape([n] if group == k else [n, k // group, 1])))
        if name + ".bias" in package.tensors:
            request.set_tensor(short + ".bias", self.tensor(np.array(package.floats(name + ".bias"))))

    def folded(self, ids, tokens, past):
        """`ids` through folded graphs of `tokens` tokens; logits of each."""
        package, p = self.package, self.package.params
        request = package.compile("block_%d_%d.xml" % (tokens, past)).create_infer_request()
        self.common(request, tokens, past)
        hidden = np.zeros((1, tokens, p["d_model"]), np.float32)
        hidden[0, :len(ids)] = package.floats("model.embed_tokens.weight")[ids]
        for layer in range(p["n_layers"]):
            prefix = "model.layers.%d." % layer
            request.set_tensor("hidden", self.tensor(hidden))
            for short, norm in (("attention_norm", "input_layernorm"),
                                ("mlp_norm", "post_attention_layernorm")):
                request.set_tensor(short, self.tensor(np.array(package.floats(prefix + norm + ".weight"))))
            for short, long in MATRICES.items():
                self.bind_matrix(request, layer, short, long)
            if past:
                request.set_tensor("past_key", self.rows(layer, 0, 0, past))
                request.set_tensor("past_value", self.rows(layer, 1, 0, past))
            request.set_tensor("key", self.rows(layer, 0, self.position, tokens))
            request.set_tensor("value", self.rows(layer, 1, self.position, tokens))
            out = np.empty_like(hidden)
            request.set_tensor("hidden_out", self.tensor(out))
            request.infer()
            hidden = out
        self.advance(len(ids))
        return self.head(hidden[0, :len(ids)])

    def head(self, hidden):
        package, p = self.package, self.package.params
        rms = np.sqrt((hidden ** 2).mean(-1, keepdims=True) + p["rms_epsilon"])
        name = "model.embed_tokens" if p["tied_embedding"] else "lm_head"
        return (hidden / rms * package.floats("model.norm.weight")) @ package.floats(name + ".weight").T

    def advance(self, n):
        self.position += n
        self.bound.clear()
        self.strips[:, :, self.position:] = POISON

    def whole(self, ids, name, tokens, past):
        """`ids` through a whole graph; logits of the last."""
        p = self.package.params
        request = self.package.compile(name).create_infer_request()
        self.common(request, tokens, past)
        padded = np.zeros((1, tokens), np.int64)
        padded[0, :len(ids)] = ids
        for key, value in (("input_ids", padded), ("beam_idx", np.zeros(1, np.int32)),
                           ("last", np.array([len(ids) - 1], np.int64))):
            request.set_tensor(key, self.tensor(value))
        for layer in range(p["n_layers"]):
            if past:
                request.set_tensor("past_key.%d" % layer, self.rows(layer, 0, 0, past))
                request.set_tensor("past_value.%d" % layer, self.rows(layer, 1, 0, past))
            request.set_tensor("key.%d" % layer, self.rows(layer, 0, self.position, tokens))
            request.set_tensor("value.%d" % layer, self.rows(layer, 1, self.position, tokens))
        request.infer()
        self.advance(len(ids))
        return request.get_tensor("logits").data.reshape(1, -1).copy()


class Stateful:
    """openvino_model.xml in stock OpenVINO: one sequence."""

    def __init__(self, directory, options=None):
        core = openvino().Core()
        model = core.read_model(os.path.join(directory, "openvino_model.xml"))
        expected = {"input_ids": 2, "attention_mask": 2, "position_ids": 2, "beam_idx": 1}
        names = {i.get_any_name(): i.get_partial_shape() for i in model.inputs}
        assert {n: s.rank.get_length() for n, s in names.items()} == expected, names
        assert names["beam_idx"].is_static and list(names["beam_idx"].to_shape()) == [1], names
        options = options or {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
                              "KV_CACHE_PRECISION": "f32"}
        self.request = core.compile_model(model, "CPU", options).create_infer_request()
        self.position = 0

    def step(self, ids):
        n, end = len(ids), self.position + len(ids)
        result = self.request.infer({"input_ids": np.array([ids], np.int64), "beam_idx": np.zeros(1, np.int32),
                                     "attention_mask": np.ones((1, end), np.int64),
                                     "position_ids": np.arange(self.position, end)[None].astype(np.int64)})
        self.position = end
        return result["logits"].reshape(n, -1).copy()

    def logits(self, ids, steps):
        """Logits of all ids, taken `steps` at a time."""
        got = []
        for n in steps:
            got.append(self.step(ids[self.position:self.position + n]))
        return np.concatenate(got)


def divergence(expected, got):
    """Mean Kullback-Leibler divergence of the rows."""
    def log_softmax(x):
        x = x.astype(np.float64)
        x = x - x.max(-1, keepdims=True)
        return x - np.log(np.exp(x).sum(-1, keepdims=True))
    a, b = log_softmax(expected), log_softmax(got)
    return float((np.exp(a) * (a - b)).sum(-1).mean())

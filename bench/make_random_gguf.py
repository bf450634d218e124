#!/usr/bin/env python3
"""Writes a GGUF file of a given shape with random weights: Q4_0, embedding and head Q8_0, norms F32.
The peer's side of make_random_model.py: for the speed of programs, the text it makes means nothing.
One block of rows is held in memory at a time. The same arguments give the same bytes.

  venv_offering/bin/python3 bench/make_random_gguf.py --shape mistral-7b OUTPUT.gguf
"""
import argparse
import os
import sys

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter

import make_random_model as random_model

BLOCK_BYTES = 8 << 20
# Bytes of a block of 32 weights: an fp16 scale, then the weights.
BLOCK_SIZE = {GGMLQuantizationType.Q4_0: 18, GGMLQuantizationType.Q8_0: 34}
DEVIATION = {GGMLQuantizationType.Q4_0: 0.02 / 2.4, GGMLQuantizationType.Q8_0: 0.02 / 73.3}

NAMES = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
         "lm_head.weight": "output.weight"}
LAYER_NAMES = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
               "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
               "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
               "mlp.down_proj": "ffn_down"}


def gguf_name(name):
    if name in NAMES:
        return NAMES[name]
    _, _, layer, rest = name.split(".", 3)
    return "blk.%s.%s.weight" % (layer, LAYER_NAMES[rest.removesuffix(".weight")])


def type_of(name, shape):
    if len(shape) == 1:
        return GGMLQuantizationType.F32
    if name in ("token_embd.weight", "output.weight"):
        return GGMLQuantizationType.Q8_0
    return GGMLQuantizationType.Q4_0


def byte_shape(shape, kind):
    return (shape[0], shape[1] // 32 * BLOCK_SIZE[kind])


def random_blocks(shape, kind, rng, table):
    """The rows of a matrix as bytes, some at a time."""
    size = BLOCK_SIZE[kind]
    left = shape[0] * shape[1] // 32
    while left:
        n = min(left, BLOCK_BYTES // size)
        blocks = np.empty((n, size), dtype=np.uint8)
        scales = DEVIATION[kind] * (1 + 0.1 * rng.standard_normal(n, dtype=np.float32))
        blocks[:, :2] = scales.astype("<f2").view(np.uint8).reshape(n, 2)
        if kind == GGMLQuantizationType.Q4_0:
            # Q4_0 stores a weight as value + 8, the table holds two's complement.
            blocks[:, 2:] = table[np.frombuffer(rng.bytes(32 * n), dtype=np.uint16)].reshape(n, 16) ^ 0x88
        else:
            blocks[:, 2:] = rng.integers(-127, 128, size=(n, 32), dtype=np.int8).view(np.uint8)
        yield blocks
        left -= n


def add_description(writer, config):
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    writer.add_name("random")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(2)  # mostly Q4_0
    vocabulary = random_model.pieces(config["vocab_size"])
    writer.add_tokenizer_model("llama")
    writer.add_token_list([text for text, _, _ in vocabulary])
    writer.add_token_scores([score for _, score, _ in vocabulary])
    writer.add_token_types([kind for _, _, kind in vocabulary])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(random_model.CHAT_TEMPLATE)


def write(path, config, seed):
    writer = GGUFWriter(path, "llama")
    add_description(writer, config)
    tensors = [(gguf_name(name), shape) for name, shape in random_model.tensors_of(config)]
    for name, shape in tensors:
        kind = type_of(name, shape)
        if kind == GGMLQuantizationType.F32:
            writer.add_tensor_info(name, shape, np.dtype(np.float32), shape[0] * 4)
        else:
            stored = byte_shape(shape, kind)
            writer.add_tensor_info(name, stored, np.dtype(np.uint8), stored[0] * stored[1], raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    rng, table = np.random.default_rng(seed), random_model.normal_nibbles()
    with open(path, "ab") as out:
        for name, shape in tensors:
            out.write(bytes(-out.tell() % 32))
            kind = type_of(name, shape)
            if kind == GGMLQuantizationType.F32:
                out.write((1 + 0.1 * rng.standard_normal(shape[0], dtype=np.float32)).astype("<f4").tobytes())
            else:
                for blocks in random_blocks(shape, kind, rng, table):
                    out.write(blocks.tobytes())
        out.write(bytes(-out.tell() % 32))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", help="file to make")
    parser.add_argument("--shape", choices=sorted(random_model.SHAPES), default="mistral-7b")
    parser.add_argument("--layers", type=int, help="another number of layers")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if os.path.exists(args.output):
        sys.exit("make_random_gguf: %s exists already" % args.output)
    config = dict(random_model.SHAPES[args.shape])
    if args.layers:
        config["num_hidden_layers"] = args.layers
    partial = args.output + ".partial"
    write(partial, config, args.seed)
    os.rename(partial, args.output)


if __name__ == "__main__":
    main()

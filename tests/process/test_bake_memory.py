"""Peak memory does not grow with the model: a sparse GGUF of more than 3 GiB stays below 512 MiB."""
import json
import os
import shutil
import tempfile

from support import bake
from support.bake import expect
import gguf
import numpy as np

LIMIT = 512 << 20
ROWS, COLUMNS = 32000, 4096  # of the embedding and the head, F32: 500 MiB each
FF = 49152                   # of the MLP: 768 MiB each


def write_sparse(path):
    """The small model with wide matrices; all tensors are holes of the file (zeros)."""
    w = gguf.GGUFWriter(path, "llama")
    w.add_block_count(1)
    w.add_context_length(512)
    w.add_embedding_length(COLUMNS)
    w.add_feed_forward_length(FF)
    w.add_head_count(32)
    w.add_head_count_kv(8)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    tokens = bake.tokens() + ["<%d>" % i for i in range(ROWS - len(bake.tokens()))]
    w.add_token_list(tokens)
    w.add_token_merges(["t h"])
    shapes = [("token_embd.weight", (ROWS, COLUMNS)), ("output_norm.weight", (COLUMNS,)),
              ("output.weight", (ROWS, COLUMNS))]
    for name, shape in (("attn_norm.weight", (COLUMNS,)), ("ffn_norm.weight", (COLUMNS,)),
                        ("attn_q.weight", (COLUMNS, COLUMNS)), ("attn_k.weight", (1024, COLUMNS)),
                        ("attn_v.weight", (1024, COLUMNS)), ("attn_output.weight", (COLUMNS, COLUMNS)),
                        ("ffn_gate.weight", (FF, COLUMNS)), ("ffn_up.weight", (FF, COLUMNS)),
                        ("ffn_down.weight", (COLUMNS, FF))):
        shapes.append(("blk.0." + name, shape))
    total = 0
    for name, shape in shapes:
        elements = shape[0] * (shape[1] if len(shape) == 2 else 1)
        w.add_tensor_info(name, shape, np.dtype(np.float32), elements * 4)
        total += (elements * 4 + 31) // 32 * 32
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_ti_data_to_file()
    w.close()
    size = (os.path.getsize(path) + 31) // 32 * 32 + total
    os.truncate(path, size)
    return size


def main():
    with tempfile.TemporaryDirectory() as work:
        if shutil.disk_usage(work).free < 3 << 30:
            bake.skip("less than 3 GiB of free space")
        source, output = os.path.join(work, "large.gguf"), os.path.join(work, "out")
        try:
            size = write_sparse(source)
        except OSError as error:
            bake.skip("no large sparse file here: %s" % error)
        expect(size > 3 << 30, "source", size)
        result = bake.run("--gguf", source, "--output", output, "--json", timeout=800)
        expect(result.returncode == 0, result.stderr)
        report = json.loads(result.stdout)
        print("source %.2f GiB, package %.0f MiB, peak %.0f MiB, %.1f s" %
              (size / 2 ** 30, report["bytes"] / 2 ** 20, report["peak_rss_bytes"] / 2 ** 20,
               report["seconds"]))
        expect(report["peak_rss_bytes"] < LIMIT, "peak", report["peak_rss_bytes"])


if __name__ == "__main__":
    main()

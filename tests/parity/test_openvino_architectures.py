"""A small model of every architecture through its static graphs (folded and whole, windows, two RoPEs, norms of
heads, multipliers, soft caps) in the OpenVINO backend, and through the stateful graph in stock OpenVINO: the fp32
reference's predictions."""
import os
import subprocess
import sys
import tempfile

from support import bake, checkpoint, graphs
from support.bake import expect
from support.backend_tool import TOOL, run_backend
import numpy as np

FORWARD = os.path.join(os.environ["OFFERING_BUILD_DIR"], "tests", "tools", "forward_tool")
N_TOKENS, N_STEPS = 75, 2


def reference(package, ids):
    out = subprocess.run([FORWARD, "logits", package], check=True, stdout=subprocess.PIPE,
                         input=" ".join(map(str, ids)).encode()).stdout
    return np.frombuffer(out, np.float32).reshape(len(ids), -1)


def check_backend(name, package, ids):
    # Whole graphs have quantized activations, folded ones f16 KV only.
    for kernels, largest in (("folded", 5e-4), ("whole", 1e-3)):
        result = run_backend(package, "openvino:CPU", ids, kernels=kernels, generate=N_STEPS)
        print("%-12s %-7s KL %.6f" % (name, kernels, result["kl"]))
        expect(result["kl"] < largest and result["copied"] == 0, name, kernels, result)


def check_stateful(name, package, ids):
    expected = reference(package, ids)
    got = graphs.Stateful(package).logits(ids, [50] + [1] * (len(ids) - 50))
    error = float(np.sqrt(((got - expected) ** 2).sum() / (expected ** 2).sum()))
    print("%-12s stateful, relative error %.2e" % (name, error))
    expect(error < 2e-3, name, "stateful", error)


def main():
    graphs.openvino()
    if not os.path.exists(TOOL):
        bake.skip("the OpenVINO backend is not built")
    with tempfile.TemporaryDirectory() as work:
        for name in sys.argv[1:] or list(checkpoint.CONFIGS) + ["phi3-long"]:
            # Beyond the original context, phi3's other factors; within it, the usual ones.
            changes = {"original_max_position_embeddings": 20, "sliding_window": None}
            context = "128" if name == "phi3" else "512"
            config = (checkpoint.config_of("phi3", **changes) if name == "phi3-long"
                      else checkpoint.config_of(name))
            source, package = os.path.join(work, name), os.path.join(work, name + ".package")
            checkpoint.write(source, config, checkpoint.random_weights(config, 5, scale=0.6))
            done = bake.run("--model_dir", source, "--output", package, "--group_size", "32",
                            "--chunks", "16,64", "--max_context", context)
            expect(done.returncode == 0 and "no static graphs" not in done.stderr, name, done.stderr)
            ids = [int(i) for i in np.random.default_rng(7).integers(0, config["vocab_size"], N_TOKENS)]
            check_backend(name, package, ids)
            check_stateful(name, package, ids)


main()

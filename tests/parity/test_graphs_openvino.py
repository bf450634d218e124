"""Stock OpenVINO reads, compiles and runs the graphs of a package, and they give what the fp32
reference gives: folded and whole, grouped and channel-wise, with padding, past and single tokens."""
import os
import subprocess
import sys
import tempfile

from support import bake, graphs
from support.bake import expect
import numpy as np

TOOL = os.path.join(os.environ["OFFERING_BUILD_DIR"], "tests", "tools", "forward_tool")
PACKAGE = os.environ.get("OFFERING_TEST_PACKAGE", "")
# Sums in another order, f16 scales and KV.
LARGEST_DIVERGENCE = 1e-4


def reference(package, ids):
    out = subprocess.run([TOOL, "logits", package.directory], check=True, stdout=subprocess.PIPE,
                         input=" ".join(map(str, ids)).encode()).stdout
    return np.frombuffer(out, np.float32).reshape(len(ids), -1)


def check(what, expected, got):
    kl = graphs.divergence(expected, got)
    error = float(np.abs(expected - got).max() / np.abs(expected).max())
    print("%-40s KL %.2e, largest error %.2e" % (what, kl, error))
    expect(kl < LARGEST_DIVERGENCE and error < 2e-2, what, kl, error)


def check_static(package):
    """Every graph is there, is read, and has static shapes only."""
    names = [n for n in package.files if n.endswith(".xml") and not n.startswith("openvino_")]
    expect(len(names) > 10, names)
    for name in names:
        model = package.read(name)
        for op in model.get_ops():
            for output in op.outputs():
                expect(output.get_partial_shape().is_static, name, op.get_friendly_name())
        if not name.startswith("block"):
            expect(list(model.input("beam_idx").shape) == [1], name, "beam_idx")
    return names


def check_package(package, ids, folded, whole):
    expected = reference(package, ids)
    sequence = graphs.Sequence(package, 1024)
    got, chunks = [], []
    for count, tokens, past in folded:
        got.append(sequence.folded(ids[sequence.position:sequence.position + count], tokens, past))
        chunks.append("%d/%d+%d" % (count, tokens, past))
    check("folded " + " ".join(chunks), expected[:sequence.position], np.concatenate(got))
    sequence = graphs.Sequence(package, 1024)
    for count, name, tokens, past in whole:
        at = sequence.position + count
        got = sequence.whole(ids[sequence.position:at], name, tokens, past)
        check("%s, %d tokens" % (name, count), expected[at - 1:at], got)


def small(work, group):
    source, output = os.path.join(work, "small.gguf"), os.path.join(work, "package%d" % group)
    # Random weights of this size give predictions that are nearly certain; calm them.
    weights = {name: w * (0.3 if w.ndim == 2 else 1) for name, w in bake.random_weights().items()}
    bake.write_gguf(source, weights)
    result = bake.run("--gguf", source, "--output", output, "--group_size", str(group),
                      "--chunks", "16,64,256")
    expect(result.returncode == 0, result.stderr)
    return graphs.Package(output)


def main():
    graphs.openvino()
    if not os.path.exists(TOOL):
        bake.skip("the tool of the reference is not built")
    ids = [int(i) for i in np.random.default_rng(3).integers(0, 250, 380)]
    with tempfile.TemporaryDirectory() as work:
        for group in (32, -1):
            package = small(work, group)
            names = check_static(package)
            expect("block_64_512.xml" in names and "prefill_16.xml" in names, names)
            for name in names:
                package.compile(name)
            check_package(package, ids,
                          [(16, 16, 0), (64, 64, 256), (5, 16, 256), (1, 1, 256), (1, 1, 512)],
                          [(50, "prefill_64.xml", 64, 0), (1, "decode.xml", 1, 512),
                           (1, "decode.xml", 1, 512)])
            # Long chunks are attended in blocks of queries.
            check_package(package, ids, [(256, 256, 0), (70, 256, 256), (40, 64, 512)],
                          [(200, "prefill_256.xml", 256, 0)])
    if not os.path.exists(os.path.join(PACKAGE, "model.json")):
        print("no reference package: small models only")
        return
    package = graphs.Package(PACKAGE)
    ids = [504, 3575, 282, 4649, 314, 260, 2240, 282, 260, 905, 30, 657, 314, 253, 1123, 3240, 28,
           284, 357, 506, 1719, 411]
    check_package(package, ids, [(16, 16, 0), (4, 16, 256), (1, 1, 256)],
                  [(16, "prefill_16.xml", 16, 0), (1, "decode.xml", 1, 1024)])


main()

"""The OpenVINO backend in a plan, beside the CPU backend, in one process: greedy tokens of the fp32
reference but for near-ties, nothing copied, rows without a token may be NaN, compiled graphs kept
and found again, prompts covered by few chunks."""
import os
import random
import tempfile

from support import bake, graphs
from support.bake import expect
from support.backend_tool import TOOL, run_backend as run

PACKAGE = os.environ.get("OFFERING_TEST_PACKAGE", "")
# INT8 activations of the CPU backend, in the head of every plan, move logits by a few hundredths.
NEAR_TIE = 0.12
PLANS = ["prefill=openvino:CPU,decode=cpu", "prefill=cpu,decode=openvino:CPU",
         "prefill=openvino:CPU@0-{n},cpu@{n}-,decode=openvino:CPU@0-{n},cpu@{n}-",
         "prefill=cpu@0-{n},openvino:CPU@{n}-,decode=cpu@0-{n},openvino:CPU@{n}-"]


def check(name, result, largest_kl, near_tie=NEAR_TIE):
    steps = result["steps"]
    print("%-70s KL %.5f, ids %s" % (name, result["kl"], [s["id"] for s in steps]))
    expect(result["copied"] == 0, name, "copied", result["copied"])
    expect(result["kl"] < largest_kl, name, "KL", result["kl"])
    for step in steps:
        expect(step["below_best"] < near_tie, name, step)


def small_models(work):
    rng = random.Random(5)
    ids = [rng.randrange(250) for _ in range(150)]
    source = os.path.join(work, "small.gguf")
    weights = bake.random_weights()
    # Random weights of this size give predictions that are nearly certain; calm them.
    weights = {name: w * (0.3 if w.ndim == 2 else 1) for name, w in weights.items()}
    bake.write_gguf(source, weights)
    for group in ("32", "-1"):
        package = os.path.join(work, "package" + group)
        expect(bake.run("--gguf", source, "--output", package, "--group_size", group,
                        "--chunks", "16,64").returncode == 0, "bake")
        # What the CPU backend's INT8 activations do to this model is the measure.
        largest = 2 * run(package, "cpu", ids)["kl"]
        for plan in PLANS:
            check("small, group %s, %s" % (group, plan), run(package, plan.format(n=1), ids),
                  largest, near_tie=1.0)
        check("small, group %s, whole" % group,
              run(package, "openvino:CPU", ids[:60], kernels="whole"), largest, near_tie=1.0)
    return package, ids


def check_cache(package, ids, work):
    cache = os.path.join(work, "cache")
    first = run(package, PLANS[0], ids, cache=cache)
    expect(first["compiled"] > 0 and first["from_cache"] == 0, first)
    again = run(package, PLANS[0], ids, cache=cache)
    expect(again["compiled"] == 0 and again["from_cache"] == first["compiled"], again)
    expect([s["id"] for s in again["steps"]] == [s["id"] for s in first["steps"]], again)
    blobs = os.path.join(cache, "offering", "blobs")
    for name in os.listdir(blobs):
        with open(os.path.join(blobs, name), "r+b") as f:
            f.seek(500)
            f.write(b"damage")
    damaged = run(package, PLANS[0], ids, cache=cache)
    expect(damaged["from_cache"] == 0 and damaged["compiled"] == first["compiled"], damaged)


def check_chunks(package, ids):
    for n, chunks, padded in ((1, 1, 0), (15, 1, 1), (16, 1, 0), (40, 1, 24), (64, 1, 0),
                              (80, 2, 0), (150, 3, 42)):
        result = run(package, "openvino:CPU", ids[:n], chunk=256, generate=0, mode="unjudged")
        expect((result["chunks"], result["padded"]) == (chunks, padded), n, result)


def check_room(package, ids, work):
    """Compiled graphs that do not fit together are given up and made ready again: the same answer."""
    cache = os.path.join(work, "room")
    runs = [run(package, "openvino:CPU", ids, chunk=16, generate=6, cache=cache, **bound)
            for bound in ({}, {"OFFERING_GRAPHS_MIB": "1"})]
    expect(runs[0]["given_up"] == 0 and runs[0]["compiled"] > 2, runs[0])
    expect(runs[1]["given_up"] == runs[0]["compiled"] - 1, runs)
    expect(runs[1]["compiled"] == 0 and runs[1]["copied"] == 0, runs[1])
    expect([s["id"] for s in runs[1]["steps"]] == [s["id"] for s in runs[0]["steps"]], runs)


def main():
    graphs.openvino()
    if not os.path.exists(TOOL):
        bake.skip("the OpenVINO backend is not built")
    with tempfile.TemporaryDirectory() as work:
        package, ids = small_models(work)
        check_cache(package, ids, work)
        check_chunks(package, ids)
    if not os.path.exists(os.path.join(PACKAGE, "model.json")):
        print("no reference package: small models only")
        return
    ids = [504, 3575, 282, 4649, 314, 260, 2240, 282, 260, 905, 30, 657, 314, 253, 1123, 3240, 28,
           284, 357, 506, 1719, 411]
    check("SmolLM2, split", run(PACKAGE, "prefill=openvino:CPU,decode=openvino:CPU@0-4,cpu@4-", ids,
                                generate=6), 1e-2)
    with tempfile.TemporaryDirectory() as work:
        check_room(PACKAGE, ids, work)


main()

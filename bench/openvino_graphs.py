#!/usr/bin/env python3
"""What the static graphs cost on OpenVINO's CPU plug-in: prefill beside OpenVINO GenAI's of the same package, a short
prompt beside a long one, and compiling a folded graph beside the whole one.

  venv_offering/bin/python3 bench/openvino_graphs.py PACKAGE [--build DIR] [--parts prefill,short,compile,resident]

PACKAGE is baked by bake_model; the build has the tests' tools (-DOFFERING_TESTS=ON). Engines alternate in one run;
figures are medians, with the least and the largest beside them. Every repetition of GenAI is a fresh prompt, and
prefix caching is off."""
import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time

PROMPT, SHORT, LONG = 512, 31, 1024


def ids_of(n, vocab, seed):
    rng = random.Random(seed)
    return [rng.randrange(vocab) for _ in range(n)]


def summary(values):
    return {"median": round(statistics.median(values), 1), "min": round(min(values), 1), "max": round(max(values), 1)}


class Tool:
    """tests/tools/backend_tool: the backend in one process; ms of each repetition, the first ones left out."""

    def __init__(self, build, package, kernels):
        self.command = [os.path.join(build, "tests/tools/backend_tool"), package, "openvino:CPU", kernels, str(LONG), "0"]

    def run(self, ids, repeats, skip=2):
        done = subprocess.run([*self.command, "repeat:%d" % (repeats + skip)], input=" ".join(map(str, ids)), text=True,
                              stdout=subprocess.PIPE, check=True)
        return json.loads(done.stdout)["jobs_ms"][skip:]


class GenAi:
    def __init__(self, package, attention, threads):
        import openvino_genai
        self.genai = openvino_genai
        options = {"ATTENTION_BACKEND": attention, "INFERENCE_NUM_THREADS": threads}
        if attention == "PA":
            scheduler = openvino_genai.SchedulerConfig()
            scheduler.enable_prefix_caching = False
            scheduler.max_num_batched_tokens = 1 << 16
            options["scheduler_config"] = scheduler
        self.pipeline = openvino_genai.LLMPipeline(package, "CPU", **options)

    def prefill(self, ids):
        import numpy
        import openvino
        config = self.genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = 1, True, False
        prompt = numpy.array([ids], numpy.int64)
        inputs = self.genai.TokenizedInputs(openvino.Tensor(prompt), openvino.Tensor(numpy.ones_like(prompt)))
        metrics = self.pipeline.generate(inputs, config).perf_metrics.raw_metrics
        return sum(metrics.token_infer_durations) / 1e3


def prefill(args, vocab):
    """ms for PROMPT tokens, by engine, in alternation."""
    peers = {"genai " + name: GenAi(args.package, name, args.threads) for name in ("PA", "SDPA")}
    values = {name: [] for name in [*peers, "offering whole", "offering folded"]}
    for peer in peers.values():
        peer.prefill(ids_of(PROMPT, vocab, 0))
    for round_ in range(args.rounds):
        for name, peer in peers.items():
            values[name] += [peer.prefill(ids_of(PROMPT, vocab, 10 * round_ + i)) for i in range(2)]
        for kernels in ("whole", "folded"):
            values["offering " + kernels] += Tool(args.build, args.package, kernels).run(ids_of(PROMPT, vocab, round_), 2)
    return {name: summary(v) for name, v in values.items()}


def short(args, vocab):
    """ms until the first token's logits of a short and a long prompt."""
    result = {}
    for kernels in ("whole", "folded"):
        tool = Tool(args.build, args.package, kernels)
        times = {n: summary(tool.run(ids_of(n, vocab, n), 5)) for n in (SHORT, LONG)}
        result[kernels] = {"%d tokens" % n: t for n, t in times.items()}
        result[kernels]["ratio"] = round(times[SHORT]["median"] / times[LONG]["median"], 3)
    return result


COMPILE = """
import json, resource, sys, time
import openvino
def private():
    with open("/proc/self/smaps_rollup") as f:
        return sum(int(l.split()[1]) for l in f if l.startswith(("Private_Dirty", "Anonymous:")) and "Dirty" in l)
core = openvino.Core()
core.get_property("CPU", "FULL_DEVICE_NAME")
model = core.read_model(sys.argv[1], sys.argv[2])
before, peak, begin = private(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1,
                                             "INFERENCE_NUM_THREADS": int(sys.argv[3])})
request = compiled.create_infer_request()
print(json.dumps({"seconds": round(time.monotonic() - begin, 3), "private_mib": (private() - before) >> 10,
                  "peak_growth_mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) >> 10}))
"""


def compile_(args, _):
    """Seconds and private memory of compiling block_512_0.xml and prefill_512.xml, each in a process of its own."""
    result = {}
    weights = os.path.join(args.package, "weights.bin")
    for name in ("block_%d_0.xml" % PROMPT, "prefill_%d.xml" % PROMPT):
        runs = []
        for _ in range(args.rounds):
            done = subprocess.run([sys.executable, "-c", COMPILE, os.path.join(args.package, name), weights,
                                   str(args.threads)], stdout=subprocess.PIPE, text=True, check=True)
            runs.append(json.loads(done.stdout))
        result[name] = {key: statistics.median(r[key] for r in runs) for key in runs[0]}
    block, whole = result.values()
    result["ratio"] = {key: round(block[key] / max(whole[key], 1e-9), 3) for key in block}
    return result


def memory_of(pid, weights):
    """(Pss of weights.bin, private dirty memory), bytes."""
    mapped, private, inside = 0, 0, False
    try:
        with open("/proc/%d/smaps" % pid) as f:
            for line in f:
                word = line.split(None, 1)[0]
                if "-" in word and not word.endswith(":"):
                    inside = line.rstrip().endswith(weights)
                elif word == "Pss:" and inside:
                    mapped += int(line.split()[1]) << 10
                elif word in ("Private_Dirty:", "Private_Hugetlb:") and not inside:
                    private += int(line.split()[1]) << 10
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        pass
    return mapped, private


def resident(args, _):
    """Memory of a process that prefills --resident_tokens and decodes through folded graphs: what it maps of weights.bin,
    and everything private but the KV arena, beside the package's weights."""
    with open(os.path.join(args.package, "model.json")) as f:
        model = json.load(f)
    p, size = model["params"], os.path.getsize(os.path.join(args.package, "weights.bin"))
    tool = Tool(args.build, args.package, "folded")
    command = [*tool.command[:5], "2", "unjudged"]
    command[4] = str(args.resident_tokens)
    context, n = min(8192, p["context_length"]), args.resident_tokens
    arena = p["n_layers"] * 2 * (context + n) * p["n_kv_heads"] * p["head_dim"] * 2
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    process.stdin.write(" ".join(map(str, ids_of(n, p["vocab_size"], 1))))
    process.stdin.close()
    best = (0, 0)
    while process.poll() is None:
        now = memory_of(process.pid, "weights.bin")
        best = max(best, now, key=sum)
        time.sleep(0.2)
    if process.returncode:
        raise RuntimeError("backend_tool failed")
    private = best[1] - arena
    return {"weights_mib": size >> 20, "mapped_pss_mib": best[0] >> 20, "kv_arena_mib": arena >> 20,
            "private_without_arena_mib": private >> 20, "ratio": round((best[0] + private) / size, 3)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package")
    parser.add_argument("--build", default="build/release")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--resident_tokens", type=int, default=PROMPT)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", default="prefill,short,compile")
    args = parser.parse_args()
    # The compiled graphs must not come from an earlier run.
    os.environ["XDG_CACHE_HOME"] = "/dev/null/none"
    with open(os.path.join(args.package, "model.json")) as f:
        vocab = json.load(f)["params"]["vocab_size"]
    parts = {"prefill": prefill, "short": short, "compile": compile_, "resident": resident}
    for name in args.parts.split(","):
        begin = time.monotonic()
        print(json.dumps({name: parts[name](args, vocab), "seconds": round(time.monotonic() - begin)}, indent=1), flush=True)


if __name__ == "__main__":
    main()

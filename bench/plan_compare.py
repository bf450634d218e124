#!/usr/bin/env python3
"""Is 'auto' the fastest plan? Tries all plans of the devices named, and auto, at several prompt lengths.

    bench/plan_compare.py --package DIR [--devices cpu,openvino:CPU,opencl:0] [--prompts 32,128,512]
                          [--rounds 3] [--decode_steps 24] [--answer 128] [--bin build/release/bin]
                          [--output results.json]

An executive of its own is started (--context 2048, --slots 2: small enough for any device), and ended.
A round measures every plan once at every length, one after the other, so that what the machine does
meanwhile meets all; rounds begin with another plan. A sample is 'supervisor bench' with one warm-up of
the same size. A figure is the median over the rounds. The whole is first token + answer x time of a
token. Auto's distance is its whole over the least whole, less 1. Plans that cannot run are listed.
"""
import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile


def parse():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--package", required=True)
    p.add_argument("--devices", default="cpu,openvino:CPU,opencl:0")
    p.add_argument("--prompts", default="32,128,512")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--decode_steps", type=int, default=24)
    p.add_argument("--answer", type=int, default=128)
    p.add_argument("--context", type=int, default=2048)
    p.add_argument("--slots", type=int, default=2)
    p.add_argument("--bin", default="build/release/bin")
    p.add_argument("--output")
    return p.parse_args()


class Runner:
    def __init__(self, o):
        self.o = o
        self.directory = tempfile.TemporaryDirectory(prefix="offering_plan_compare_")
        self.environment = dict(os.environ, XDG_RUNTIME_DIR=self.directory.name,
                                XDG_STATE_HOME=os.path.join(self.directory.name, "state"))
        os.chmod(self.directory.name, 0o700)
        self.environment.pop("OFFERING_PLAN", None)

    def program(self, name, *arguments, check=True):
        done = subprocess.run([os.path.join(self.o.bin, name), *arguments, "--model", self.o.package],
                              env=self.environment, capture_output=True, text=True)
        if check and done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr else name)
        return done

    def start(self):
        self.program("executive_shard", "run", "--context", str(self.o.context), "--slots",
                     str(self.o.slots))

    def stop(self):
        self.program("executive_shard", "stop", check=False)
        self.directory.cleanup()

    def sample(self, plan, tokens):
        """(milliseconds to the first token, of a token, the plan as it ran)"""
        done = self.program("supervisor", "bench", "--plan", plan, "--prompt_tokens", str(tokens),
                            "--gen_tokens", str(self.o.decode_steps), "--repeat", "1",
                            "--no_bandwidth", "--json")
        r = json.loads(done.stdout)
        return r["first_token_ms"]["median"], 1e3 / r["decode_tok_s"]["median"], r["plan"]


def all_plans(devices):
    return [f"prefill={a},decode={b}" for a, b in itertools.product(devices, devices)]


def measure(runner, plans, lengths):
    """{(plan, tokens): [(first, per token)]}, {plan: why it did not run}, auto's plan"""
    samples, failed, auto = {}, {}, None
    for turn in range(runner.o.rounds):
        for plan in plans[turn % len(plans):] + plans[:turn % len(plans)]:
            for tokens in lengths:
                if plan in failed:
                    break
                try:
                    first, per_token, ran = runner.sample(plan, tokens)
                except RuntimeError as error:
                    failed[plan] = str(error)
                    break
                if plan == "auto":
                    auto = ran
                elif ran != plan:
                    failed[plan] = f"ran as {ran}"
                    break
                samples.setdefault((plan, tokens), []).append((first, per_token))
                print(f"round {turn + 1}: {plan}, {tokens} tokens: {first:.1f} ms to the first token, "
                      f"{per_token:.2f} ms a token", file=sys.stderr, flush=True)
    return samples, failed, auto


def table(samples, lengths, answer):
    """Rows (tokens, plan, first, per token, whole in ms), by tokens and whole."""
    rows = []
    for (plan, tokens), values in samples.items():
        first = statistics.median(v[0] for v in values)
        per_token = statistics.median(v[1] for v in values)
        whole = statistics.median(v[0] + answer * v[1] for v in values)
        rows.append((tokens, plan, first, per_token, whole))
    return sorted(rows, key=lambda row: (lengths.index(row[0]), row[4]))


def main():
    o = parse()
    lengths = [int(n) for n in o.prompts.split(",")]
    runner = Runner(o)
    try:
        runner.start()
        # The first use measures the machine, which is not part of any figure.
        decision = json.loads(runner.program("supervisor", "plan", "--json").stdout)
        samples, failed, auto = measure(runner, ["auto"] + all_plans(o.devices.split(",")), lengths)
    finally:
        runner.stop()
    rows = table(samples, lengths, o.answer)
    print(f"auto is {auto}: {decision['reason']}\n")
    print(f"| prompt | plan | first token, ms | a token, ms | with an answer of {o.answer}, s |")
    print("|---|---|---|---|---|")
    for tokens, plan, first, per_token, whole in rows:
        print(f"| {tokens} | {plan} | {first:.1f} | {per_token:.2f} | {whole / 1e3:.3f} |")
    distances = {}
    for tokens in lengths:
        of_length = [row for row in rows if row[0] == tokens]
        best = min(row[4] for row in of_length if row[1] != "auto")
        # Auto is one of the plans: its own samples and those of that plan are of one thing.
        same = [v for (plan, n), values in samples.items() if n == tokens and plan in ("auto", auto)
                for v in values]
        whole = statistics.median(v[0] + o.answer * v[1] for v in same)
        distances[tokens] = whole / best - 1
        print(f"\nprompt {tokens}: auto is {100 * distances[tokens]:+.1f} % from the best plan")
    for plan, why in failed.items():
        print(f"\nnot run: {plan}: {why}")
    if o.output:
        with open(o.output, "w") as file:
            json.dump({"auto": auto, "decision": decision, "rows": rows, "failed": failed,
                       "distance": distances}, file, indent=1)


main()

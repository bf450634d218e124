#!/usr/bin/env python3
"""Measures Offering beside llama.cpp and OpenVINO GenAI, alternating, in one run. `make bench` sets up
what this needs and calls it; bench/README.md says how each figure is taken.

Writes results.md, results.csv, results.json and a drawing per model below --output."""
import argparse
import json
import os
import pydoc_data.topics
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import machine
import models
import plot
import tables
from engines import FIRST_PROMPT, LlamaCpp, OpenvinoGenai, Ours, Prompts
from figures import Cell, Samples, rotation
from models import say
from process_tree import BenchError

PHASES = ("prefill", "decode", "ttft", "memory")
FULL = {"small": {"prefill": (16, 128, 512, 2048), "decode": (0, 512, 2048), "repeat": 5, "gen": 64},
        "7b": {"prefill": (16, 128, 512, 2048), "decode": (0, 512, 2048), "repeat": 3, "gen": 32}}
QUICK = {"small": {"prefill": (16, 128), "decode": (0, 512), "repeat": 2, "gen": 16},
         "7b": {"prefill": (16,), "decode": (0,), "repeat": 1, "gen": 8}}
PEERS = {"small": ("llama_cpp", "openvino"), "7b": ("llama_cpp",)}


def numbers(text):
    values = tuple(int(part) for part in text.split(","))
    if any(v < 0 for v in values):
        raise ValueError(text)
    return values


def parse(arguments):
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few cells and rounds: to see that everything works")
    parser.add_argument("--only", choices=PHASES, action="append", help="only this (may be given again)")
    parser.add_argument("--model", choices=("small", "7b", "all"), default="small")
    parser.add_argument("--peers", help="of llama_cpp,openvino; 'none' (default: both; 7b: llama_cpp)")
    parser.add_argument("--prefill_tokens", type=numbers, help="instead of 16,128,512,2048")
    parser.add_argument("--depths", type=numbers, help="instead of 0,512,2048")
    parser.add_argument("--gen_tokens", type=int, help="steps of a decode sample (default 64; 7b: 32)")
    parser.add_argument("--repeat", type=int, help="rounds (default 5; 7b: 3)")
    parser.add_argument("--threads", type=int, default=machine.physical_cores(),
                        help="of every engine (default: the physical cores, %(default)s)")
    parser.add_argument("--bin", default=os.path.join(machine.ROOT, "build", "release", "bin"),
                        help="our programs (default %(default)s)")
    parser.add_argument("--output", help="directory (default build/bench/<time>)")
    parser.add_argument("--json", action="store_true", help="the results as one JSON object on stdout")
    args = parser.parse_args(arguments)
    known = {p for peers in PEERS.values() for p in peers}
    if args.peers is not None:
        args.peers = tuple(p for p in args.peers.split(",") if p != "none")
        if not set(args.peers) <= known:
            parser.error("--peers is of %s, or none" % ",".join(sorted(known)))
    for name in ("repeat", "threads", "gen_tokens"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error("--%s is at least 1" % name)
    return args


def text_of_run(directory):
    """The reference manual that comes with Python (PSF license): real prose, on every machine that has
    the interpreter of this script."""
    topics = pydoc_data.topics.topics
    path = os.path.join(directory, "text.txt")
    with open(path, "w", encoding="utf-8") as f:
        f.write("\n\n".join(topics[name] for name in sorted(topics)))
    return path


def make_prompts(directory, supervisor, package):
    text = text_of_run(directory)

    def tokenize(*arguments):
        done = subprocess.run([supervisor, "tokenize", "--model", package, *arguments], capture_output=True, check=False)
        if done.returncode != 0:
            raise BenchError("supervisor tokenize: " + done.stderr.decode(errors="replace").strip())
        return done.stdout

    ids = json.loads(tokenize("--file", text, "--no_special", "--no_parse_special", "--json"))["ids"]
    return Prompts(directory, text, ids, lambda piece: tokenize("--decode", ",".join(map(str, piece))))


def make_engines(model, peers, directory, args, settings):
    supervisor = os.path.join(args.bin, "supervisor")
    prompts = make_prompts(directory, supervisor, model.packages[0][2])
    common = {"threads": args.threads, "prompts": prompts, "gen_tokens": settings["gen"]}
    engines = [Ours(name, label, package, args.bin, directory, **common) for name, label, package in model.packages]
    if "llama_cpp" in peers:
        sizes = models.gguf_sizes(model.gguf)
        engines += [LlamaCpp("llama_cpp" + suffix, "llama.cpp" + label, model.gguf, sizes, models.PEERS, flash, **common)
                    for suffix, label, flash in (("", "", "on"), ("_no_fa", ", flash attention off", "off"))]
    if "openvino" in peers:
        engines += [OpenvinoGenai("openvino_" + backend.lower(), "OpenVINO GenAI, " + backend, model.gguf, backend,
                                  **common) for backend in ("SDPA", "PA")]
    return engines


def plan(settings, only):
    """[(what, argument, rounds)]: what is measured in a round, in order."""
    steps = []
    if "decode" in only:
        steps += [("bandwidth", "", None)]
    if "prefill" in only:
        steps += [("prefill", n, None) for n in settings["prefill"]]
    if "decode" in only:
        steps += [("decode", depth, None) for depth in settings["decode"]]
    if "ttft" in only:
        steps += [("first_token", FIRST_PROMPT, None), ("start", "", None)]
    if "memory" in only:
        steps += [("memory", "", 1)]
    return steps


def one_sample(engine, what, argument):
    """{Cell: value}"""
    if what == "bandwidth":
        value = engine.bandwidth()
        return {} if value is None else {Cell(what, argument): value}
    if what in ("start", "memory"):
        return {Cell(what, name): value for name, value in getattr(engine, what)().items()}
    return {Cell(what, argument): getattr(engine, what)(argument)}


def measure(samples, engines, steps, repeat, store):
    """All rounds. An engine that fails at something is not asked for it again; the others go on."""
    broken = set()
    for round_ in range(repeat):
        for what, argument, rounds in steps:
            # The bandwidth is the machine's: one engine measures it.
            taking = engines[:1] if what == "bandwidth" else engines
            for engine in rotation(taking, round_):
                if (what, argument, engine.name) in broken or (rounds is not None and round_ >= rounds):
                    continue
                try:
                    found = one_sample(engine, what, argument)
                except BenchError as error:
                    broken.add((what, argument, engine.name))
                    samples.fail(Cell(what, argument), engine.name, str(error))
                    say("%s, %s %s: %s" % (engine.label, what, argument, error))
                    continue
                for cell, value in found.items():
                    samples.add(cell, engine.name, round_, value)
                    say("round %d of %d: %s: %s: %s %s" % (
                        round_ + 1, repeat, cell.title, engine.label, tables.number(value), cell.unit))
                if what == "decode" and engine.bytes_per_token(argument):
                    samples.bytes_per_token[engine.name, argument] = engine.bytes_per_token(argument)
        store()


def run_model(name, args, only, store):
    settings = dict((QUICK if args.quick else FULL)[name])
    for key, value in (("prefill", args.prefill_tokens), ("decode", args.depths), ("repeat", args.repeat),
                       ("gen", args.gen_tokens)):
        if value is not None:
            settings[key] = value
    model = models.MODELS[name](args.bin)
    peers = args.peers if args.peers is not None else PEERS[name]
    # Short: it holds the executives' sockets, whose paths are limited to about 100 characters.
    directory = tempfile.mkdtemp(prefix="ofr_bench_")
    engines = []
    try:
        engines = make_engines(model, peers, directory, args, settings)
        samples = Samples(model.title, [e.contender() for e in engines])
        notes = [text for about, text in model.notes if about in ("", "ours", *peers)]
        notes += ["%d rounds, %d steps a decode sample." % (settings["repeat"], settings["gen"])]
        usable = []
        for engine in engines:
            try:
                engine.open()
                usable.append(engine)
            except BenchError as error:
                samples.fail(Cell("start", "open"), engine.name, str(error))
                say("%s: %s" % (engine.label, error))
        measure(samples, usable, plan(settings, only), settings["repeat"], lambda: store(samples, notes))
        store(samples, notes)
    finally:
        for engine in engines:
            engine.close()
        shutil.rmtree(directory, ignore_errors=True)


class Results:
    """What is known so far, written out after each round: an interrupted run keeps its rounds."""

    def __init__(self, directory, header):
        self.directory, self.header = directory, header
        self.samples, self.notes, self.ours = {}, {}, {}
        os.makedirs(directory, exist_ok=True)

    def write(self, name, content):
        partial = os.path.join(self.directory, name + ".partial")
        with open(partial, "w", encoding="utf-8") as f:
            f.write(content)
        os.replace(partial, os.path.join(self.directory, name))

    def store(self, samples, notes):
        self.samples[samples.model] = samples
        self.notes[samples.model] = notes
        self.ours[samples.model] = samples.contenders[0].name
        self.flush()

    def flush(self):
        every = list(self.samples.values())
        self.write("results.csv", tables.csv_text(every))
        self.write("results.md", tables.document(self.header, self.notes, every, self.ours))
        self.write("results.json", json.dumps(self.as_json(), indent=1) + "\n")
        for i, samples in enumerate(every):
            self.write("results%s.svg" % ("_%d" % (i + 1) if i else ""), plot.svg(samples, self.subtitle()))

    def subtitle(self):
        known = dict(self.header)
        return "%s; %s threads; commit %s; %s" % (known["CPU"].split(" (")[0], known["threads, each engine"].split()[0],
                                                  known["commit"], known["date"])

    def as_json(self):
        return tables.as_json(self.header, self.notes, self.samples.values(), self.ours)


def versions():
    found = []
    for line in open(os.path.join(machine.ROOT, "bench", "setup_peers.sh"), encoding="utf-8"):
        if line.startswith("llama_version="):
            found.append("llama.cpp " + line.strip().partition("=")[2])
    try:
        import openvino_genai
        found.append("OpenVINO GenAI " + openvino_genai.__version__)
    except ImportError:
        pass
    return ", ".join(found)


def main():
    signal.signal(signal.SIGTERM, lambda *unused: sys.exit(143))
    args = parse(sys.argv[1:])
    only = set(args.only or PHASES)
    load = os.getloadavg()[0]
    stolen = machine.stolen()
    header = machine.describe(args.threads) + [
        ("peers", versions()),
        ("command", "make bench" + (" ARGS=\"%s\"" % " ".join(sys.argv[1:]) if sys.argv[1:] else "")),
        ("load before the run", "%.2f%s" % (load, "; BUSY: these figures are not to be published"
                                            if machine.busy(load) else ""))]
    if machine.busy(load):
        say("other work is running (load average %.1f): the figures will say little" % load)
    output = os.path.abspath(args.output or os.path.join(machine.ROOT, "build", "bench", time.strftime("%Y%m%d-%H%M%S")))
    results = Results(output, header)
    try:
        for name in ("small", "7b") if args.model == "all" else (args.model,):
            run_model(name, args, only, results.store)
    except BenchError as error:
        sys.exit("bench: %s" % error)
    except KeyboardInterrupt:
        sys.exit("bench: interrupted; the whole rounds are in " + output)
    taken, ticks = (b - a for a, b in zip(stolen, machine.stolen()))
    header.append(("time taken by other machines of the host", "%.1f %%" % (100 * taken / max(ticks, 1))))
    results.flush()
    say("results in " + output)
    if args.json:
        print(json.dumps(results.as_json()))
    else:
        print(open(os.path.join(output, "results.md"), encoding="utf-8").read(), end="")
    sys.exit(1 if any(s.failures for s in results.samples.values()) else 0)


if __name__ == "__main__":
    main()

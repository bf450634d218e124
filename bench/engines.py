"""The engines, each behind the same calls. A call drops a warm-up of its own and gives one sample.

    prefill(n)          tokens a second over a prompt of n tokens
    decode(depth, n)    tokens a second over n steps after `depth` tokens
    first_token(n)      milliseconds from a prompt's ids to the first token's, everything warm
    start()             {argument: milliseconds from no process to the first token}
    memory()            {argument: MiB}
    bytes_per_token(d)  bytes that a decode step at that depth reads, None where not known
"""
import json
import os
import subprocess
import sys
import tempfile

import process_tree
from figures import Contender
from process_tree import BenchError

HERE = os.path.dirname(os.path.abspath(__file__))
CONTEXT = 4096
MEMORY_PROMPT, MEMORY_STEPS, FIRST_PROMPT = 512, 64, 31


class Engine:
    """`threads` compute threads; `prompts` gives prompt files of real text."""
    family = ""

    def __init__(self, name, label, threads, prompts, gen_tokens):
        self.name, self.label = name, label
        self.threads, self.prompts, self.gen_tokens = threads, prompts, gen_tokens

    def contender(self):
        return Contender(self.name, self.label, self.family)

    def open(self):
        pass

    def close(self):
        pass

    def bytes_per_token(self, depth):
        return None

    def bandwidth(self):
        return None


class Ours(Engine):
    """supervisor and an executive of its own."""
    family = "Offering"

    def __init__(self, name, label, package, bin_directory, runtime, **common):
        super().__init__(name, label, **common)
        self.package, self.bin = package, bin_directory
        self.environment, self.mark = process_tree.marked_environment({
            "XDG_RUNTIME_DIR": runtime, "XDG_STATE_HOME": os.path.join(runtime, "state")})
        self.sizes = {}

    def supervisor(self, command, *arguments):
        return [os.path.join(self.bin, "supervisor"), command, "--model", self.package, "--instance", self.name,
                "--threads", str(self.threads), "--context", str(CONTEXT), "--plan", "cpu", *map(str, arguments)]

    def bench(self, prompt, gen, depth=0, bandwidth=False):
        command = self.supervisor("bench", "--prompt_tokens", prompt, "--gen_tokens", gen, "--depth", depth,
                                  "--repeat", 1, "--text_file", self.prompts.text_file, "--json")
        report = json.loads(process_tree.run(command + ([] if bandwidth else ["--no_bandwidth"]), self.environment))
        # An executive that was there already keeps its own settings.
        if report["context"] != CONTEXT or report["threads"] != self.threads:
            raise BenchError("the executive has %d threads and a context of %d" % (report["threads"], report["context"]))
        self.sizes[depth] = report["bytes_per_token"] if gen else self.sizes.get(depth)
        return report

    def open(self):
        self.bench(1, 1)

    def close(self):
        subprocess.run([os.path.join(self.bin, "executive_shard"), "stop", "--instance", self.name],
                       env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)

    def prefill(self, tokens):
        return self.bench(tokens, 0)["prefill_tok_s"]["median"]

    def decode(self, depth):
        return self.bench(0, self.gen_tokens, depth)["decode_tok_s"]["median"]

    def first_token(self, tokens):
        return self.bench(tokens, 0)["first_token_ms"]["median"]

    def bandwidth(self):
        return self.bench(0, 1, bandwidth=True)["bandwidth_gb_s"]

    def bytes_per_token(self, depth):
        return self.sizes.get(depth)

    def answer(self, prompt_tokens, steps):
        return self.supervisor("run", "--raw", "--prompt_file", self.prompts.file(prompt_tokens), "--max_tokens",
                               steps, "--ignore_eos")

    def start(self):
        self.close()
        cold = process_tree.seconds_to_first_byte(self.answer(FIRST_PROMPT, 1), self.environment)
        warm = process_tree.seconds_to_first_byte(self.answer(FIRST_PROMPT, 1), self.environment)
        return {"no process running": cold * 1e3, "executive running": warm * 1e3}

    def memory(self):
        self.close()
        with process_tree.MemoryWatch(self.mark) as watch:
            process_tree.run(self.answer(MEMORY_PROMPT, MEMORY_STEPS), self.environment)
            watch.look()
        return {"resident": watch.last / 2**20, "peak": watch.peak / 2**20}


class LlamaCpp(Engine):
    """llama-bench for the rates (a process per sample, with its own warm-up); llama-completion for
    start-up and memory."""
    family = "llama.cpp"

    def __init__(self, name, label, gguf, sizes, bin_directory, flash_attention, **common):
        super().__init__(name, label, **common)
        self.gguf, self.sizes, self.bin, self.flash = gguf, sizes, bin_directory, flash_attention
        self.environment, self.mark = process_tree.marked_environment()

    def bench(self, *arguments):
        command = [os.path.join(self.bin, "llama-bench"), "-m", self.gguf, "-t", str(self.threads), "-r", "1",
                   "-fa", self.flash, "-o", "jsonl", *map(str, arguments)]
        return bench_rate(process_tree.run(command, self.environment).decode(), self.threads)

    def prefill(self, tokens):
        return self.bench("-p", tokens, "-n", 0)

    def decode(self, depth):
        return self.bench("-p", 0, "-n", self.gen_tokens, "-d", depth)

    def first_token(self, tokens):
        return tokens / self.prefill(tokens) * 1e3

    def bytes_per_token(self, depth):
        return self.sizes.weights + self.sizes.kv_per_token * (depth + self.gen_tokens / 2)

    def completion(self, prompt_tokens, steps):
        return [os.path.join(self.bin, "llama-completion"), "-m", self.gguf, "-t", str(self.threads), "-c",
                str(CONTEXT), "-fa", self.flash, "-f", self.prompts.file(prompt_tokens), "-n", str(steps),
                "--temp", "0", "--ignore-eos", "-no-cnv", "--no-display-prompt", "--simple-io", "--no-warmup"]

    def start(self):
        return {"no process running": process_tree.seconds_to_first_byte(
            self.completion(FIRST_PROMPT, 1), self.environment) * 1e3}

    def memory(self):
        with process_tree.MemoryWatch(self.mark) as watch:
            process_tree.run(self.completion(MEMORY_PROMPT, MEMORY_STEPS), self.environment)
        return {"resident": watch.late() / 2**20, "peak": watch.peak / 2**20}


def bench_rate(text, threads):
    """Tokens a second of the one test that llama-bench -o jsonl reports."""
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    if len(lines) != 1 or len(lines[0].get("samples_ts", ())) != 1:
        raise BenchError("llama-bench reported %d tests, not 1 with 1 sample" % len(lines))
    if lines[0]["n_threads"] != threads:
        raise BenchError("llama-bench ran with %d threads, not %d" % (lines[0]["n_threads"], threads))
    return lines[0]["samples_ts"][0]


class OpenvinoGenai(Engine):
    """A worker process in Python that keeps the pipeline; what Python itself needs is not counted."""
    family = "OpenVINO GenAI"

    def __init__(self, name, label, gguf, backend, **common):
        super().__init__(name, label, **common)
        self.gguf, self.backend = gguf, backend
        self.environment, self.mark = process_tree.marked_environment()
        self.worker = None

    def spawn(self):
        return subprocess.Popen(
            [sys.executable, os.path.join(HERE, "openvino_worker.py"), self.gguf, self.backend, str(self.threads),
             self.prompts.ids_file], env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True)

    def open(self):
        self.worker = self.spawn()
        self.ask(self.worker, op="open")

    def close(self):
        if self.worker:
            self.worker.stdin.close()
            try:
                self.worker.wait(30)
            except subprocess.TimeoutExpired:
                self.worker.kill()
                self.worker.wait()
            self.worker.stdout.close()
            self.worker = None

    @staticmethod
    def ask(worker, **request):
        try:
            worker.stdin.write(json.dumps(request) + "\n")
            worker.stdin.flush()
            line = worker.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise BenchError("the OpenVINO GenAI worker ended, exit code %s" % worker.wait())
        answer = json.loads(line)
        if "error" in answer:
            raise BenchError("OpenVINO GenAI: " + answer["error"])
        return answer

    def prefill(self, tokens):
        return tokens / self.ask(self.worker, op="prefill", tokens=tokens)["seconds"]

    def decode(self, depth):
        return self.gen_tokens / self.ask(self.worker, op="decode", depth=depth, tokens=self.gen_tokens)["seconds"]

    def first_token(self, tokens):
        return self.ask(self.worker, op="prefill", tokens=tokens)["first_token_seconds"] * 1e3

    def fresh(self, look_at_memory):
        """(answers of a new process to "open" and a first prompt, its memory watch)"""
        environment, mark = process_tree.marked_environment()
        self.environment, before = environment, self.environment
        worker = self.spawn()
        self.environment = before
        with worker, process_tree.MemoryWatch(mark) as watch:
            python = self.ask(worker, op="hello")
            opened = self.ask(worker, op="open")
            if look_at_memory:
                self.ask(worker, op="generate", depth=MEMORY_PROMPT, tokens=MEMORY_STEPS)
            else:
                opened["seconds"] += self.ask(worker, op="first", tokens=FIRST_PROMPT)["seconds"]
            watch.look()
            worker.stdin.close()
        return python["resident_bytes"], opened["seconds"], watch

    def start(self):
        return {"no process running": self.fresh(False)[1] * 1e3}

    def memory(self):
        python, _, watch = self.fresh(True)
        return {"resident": (watch.last - python) / 2**20, "peak": (watch.peak - python) / 2**20}


class Prompts:
    """The text of the run: a file of it, its ids, and files with a piece of so many tokens. A piece is
    another one each time."""

    def __init__(self, directory, text_file, ids, decode):
        self.directory, self.text_file, self.ids, self.decode = directory, text_file, ids, decode
        self.ids_file = os.path.join(directory, "ids.json")
        with open(self.ids_file, "w") as f:
            json.dump(ids, f)
        self.next = 0

    def file(self, tokens):
        if len(self.ids) < tokens:
            raise BenchError("the text has %d tokens, a prompt needs %d" % (len(self.ids), tokens))
        if self.next + tokens > len(self.ids):
            self.next = 0
        piece = self.ids[self.next:self.next + tokens]
        self.next += tokens
        descriptor, path = tempfile.mkstemp(prefix="prompt_", suffix=".txt", dir=self.directory)
        with os.fdopen(descriptor, "wb") as f:
            f.write(self.decode(piece))
        return path

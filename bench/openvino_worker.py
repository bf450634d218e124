"""Runs OpenVINO GenAI for engines.py: requests as lines of JSON on stdin, an answer to each on stdout.

  openvino_worker.py MODEL.gguf SDPA|PA THREADS IDS.json

Every prompt is a piece of IDS from a random place; prefix caching is off."""
import json
import os
import random
import sys
import time

import numpy
import openvino
import openvino_genai

from process_tree import resident_bytes


class Worker:
    def __init__(self, model, backend, threads, ids_file):
        self.model, self.backend, self.threads = model, backend, threads
        with open(ids_file) as f:
            self.ids = json.load(f)
        self.pipeline = None

    def hello(self):
        return {"resident_bytes": resident_bytes([os.getpid()])}

    def open(self):
        options = {"INFERENCE_NUM_THREADS": self.threads, "ATTENTION_BACKEND": self.backend}
        if self.backend == "PA":
            scheduler = openvino_genai.SchedulerConfig()
            scheduler.enable_prefix_caching = False
            # A prompt is one step, as the library's own configuration for latency has it.
            scheduler.max_num_batched_tokens = 1 << 16
            options["scheduler_config"] = scheduler
        begin = time.monotonic()
        self.pipeline = openvino_genai.LLMPipeline(self.model, "CPU", **options)
        return {"seconds": time.monotonic() - begin}

    def run(self, n_prompt, n_new):
        """(raw metrics, seconds)"""
        if len(self.ids) < n_prompt:
            raise ValueError("the text has %d tokens, a prompt needs %d" % (len(self.ids), n_prompt))
        at = random.randrange(len(self.ids) - n_prompt + 1)
        prompt = numpy.array([self.ids[at:at + n_prompt]], dtype=numpy.int64)
        inputs = openvino_genai.TokenizedInputs(openvino.Tensor(prompt), openvino.Tensor(numpy.ones_like(prompt)))
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = n_new
        config.ignore_eos = True
        config.do_sample = False
        begin = time.monotonic()
        result = self.pipeline.generate(inputs, config)
        seconds = time.monotonic() - begin
        if len(result.tokens[0]) != n_new:
            raise ValueError("%d tokens instead of %d" % (len(result.tokens[0]), n_new))
        return result.perf_metrics.raw_metrics, seconds

    def first(self, tokens):
        return {"seconds": self.run(tokens, 1)[1]}

    def generate(self, depth, tokens):
        return {"seconds": self.run(depth, tokens)[1]}

    def prefill(self, tokens):
        self.run(tokens, 1)
        metrics, _ = self.run(tokens, 1)
        # Inference alone, without sampling: what the other engines' figure is.
        return {"seconds": sum(metrics.token_infer_durations) / 1e6,
                "first_token_seconds": metrics.m_times_to_first_token[0] / 1e6}

    def decode(self, depth, tokens):
        """Inference alone, in `tokens` steps. The first step after a prompt is left out: it changes
        the graph's shapes, which happens once a prompt and not per token."""
        prompt = max(depth, 1)
        self.run(prompt, tokens + 2)
        metrics, _ = self.run(prompt, tokens + 2)
        steps = list(metrics.token_infer_durations)[-tokens:]
        return {"seconds": sum(steps) / 1e6}


def main():
    # What the library prints goes to stderr.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    model, backend, threads, ids_file = sys.argv[1:]
    worker = Worker(model, backend, int(threads), ids_file)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(worker, request.pop("op"))(**request)
        except Exception as error:  # the library's errors have no common type
            answer = {"error": (str(error).strip().splitlines() or [type(error).__name__])[-1]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""What the server adds to the engine's own time, at one stream.

    bench/server_overhead.py --url http://127.0.0.1:8000 [--tokens 256] [--rounds 8] [--prompt_tokens 64] [--json]

The server counts the time inside its jobs (`offering_decode_seconds_total`, `offering_prefill_seconds_total`), from
handing a job to the executive to its completion. Here one stream is timed from outside, and what is left over is what
HTTP, the batch, sampling, text and events cost: per token as a share of the job, and as milliseconds before the first
token. With --schema, the answers also follow a JSON schema: the share then contains masks and acceptance, too, and
is told beside that of free answers of the same rounds. Medians over the rounds; nothing else may use the server.
"""
import argparse
import http.client
import json
import random
import statistics
import time
import urllib.parse

SCHEMA = {"type": "object", "additionalProperties": False, "required": ["people"], "properties": {"people": {
    "type": "array", "minItems": 40, "items": {
        "type": "object", "additionalProperties": False, "required": ["name", "city", "age", "tags"], "properties": {
            "name": {"type": "string", "maxLength": 24}, "city": {"type": "string", "pattern": "^[A-Z][a-z ]{2,16}$"},
            "age": {"type": "integer", "minimum": 18, "maximum": 99},
            "tags": {"type": "array", "maxItems": 3, "items": {"enum": ["kind", "quick", "old"]}}}}}}}


class Server:
    def __init__(self, url):
        parts = urllib.parse.urlsplit(url)
        self.host, self.port = parts.hostname, parts.port or 80

    def figures(self):
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
        connection.close()
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}

    def stream(self, body):
        """(seconds to the first text, seconds from there to the last, tokens)."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=600)
        connection.connect()
        begin = time.monotonic()
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        first = last = 0.0
        for line in answer:
            if line.startswith(b"data: {"):
                last = time.monotonic()
                first = first or last
                usage = json.loads(line[6:]).get("usage")
        connection.close()
        return first - begin, last - first, usage["completion_tokens"]


def measure(server, options, numbers, schema):
    words = ["sea", "tree", "stone", "lamp", "road", "cloud", "horse", "paper", "river", "bread"]
    body = {"prompt": " ".join(numbers.choice(words) for _ in range(options.prompt_tokens)), "stream": True,
            "max_tokens": options.tokens, "temperature": 0, "cache_prompt": False,
            "stream_options": {"include_usage": True}}
    body.update({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}
                if schema else {"ignore_eos": True})
    before = server.figures()
    first, rest, tokens = server.stream(body)
    after = server.figures()
    spent = {name: after[name] - before[name] for name in after if name in before}
    jobs = spent["offering_decode_jobs_total"]
    job = spent["offering_decode_seconds_total"] / jobs
    return {"tokens": tokens, "job_ms": job * 1000, "token_ms": rest / (tokens - 1) * 1000,
            "overhead": rest / (tokens - 1) / job - 1,
            "first_extra_ms": (first - spent["offering_prefill_seconds_total"]) * 1000}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--prompt_tokens", type=int, default=64)
    parser.add_argument("--schema", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    server, numbers = Server(options.url), random.Random(time.time_ns())
    measure(server, options, numbers, options.schema)  # warm
    result = {}
    samples = {"free": [], "schema": []}
    for _ in range(options.rounds):
        samples["free"].append(measure(server, options, numbers, False))
        if options.schema:
            samples["schema"].append(measure(server, options, numbers, True))
    for kind, values in samples.items():
        if values:
            result[kind] = {name: round(statistics.median(v[name] for v in values), 4) for name in values[0]}
            result[kind]["overhead_min_max"] = [round(f(v["overhead"] for v in values), 4) for f in (min, max)]
    if options.json:
        print(json.dumps(result))
    else:
        for kind, figures in result.items():
            for name, value in figures.items():
                print(f"{kind:8} {name:18} {value}")


main()

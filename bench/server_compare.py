#!/usr/bin/env python3
"""Aggregate decode rate, first token and prefix reuse of running servers, measured in turn.

    bench/server_compare.py ours=http://127.0.0.1:8000 llama=http://127.0.0.1:8080 [--streams 1,8]
                            [--tokens 128] [--rounds 3] [--prefix 2000] [--json]

Every stream asks for one completion of `--tokens` tokens with ignore_eos and temperature 0 from a
prompt of its own of about 30 tokens. The rate counts all tokens from the first one of any stream to
the last one of all; medians over the rounds, the servers taking turns. The prefix test sends a
prompt of about that many tokens that the server has not seen, then one that only ends otherwise.
"""
import argparse
import http.client
import json
import random
import statistics
import threading
import time
import urllib.parse


class Answer(threading.Thread):
    def __init__(self, url, prompt, tokens, gate):
        super().__init__(daemon=True)
        parts = urllib.parse.urlsplit(url)
        self.host, self.port = parts.hostname, parts.port
        self.prompt, self.tokens, self.gate = prompt, tokens, gate
        self.times, self.usage, self.error = [], None, None
        self.start()

    def run(self):
        try:
            connection = http.client.HTTPConnection(self.host, self.port, timeout=600)
            body = json.dumps({"prompt": self.prompt, "max_tokens": self.tokens, "stream": True,
                               "temperature": 0, "ignore_eos": True, "cache_prompt": True,
                               "stream_options": {"include_usage": True}})
            self.gate.wait()
            self.begin = time.monotonic()
            connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            for line in answer:
                if line.startswith(b"data: {"):
                    now = time.monotonic()
                    event = json.loads(line[6:])
                    self.usage = event.get("usage") or self.usage
                    if event.get("choices") and event["choices"][0].get("text"):
                        self.times.append(now)
            connection.close()
        except Exception as error:  # told by main
            self.error = error


def prompt_of(numbers):
    words = ["sea", "tree", "stone", "lamp", "road", "cloud", "horse", "paper", "river", "bread"]
    return " ".join(numbers.choice(words) for _ in range(28)) + "."


def ask(url, prompts, tokens):
    gate = threading.Event()
    answers = [Answer(url, p, tokens, gate) for p in prompts]
    gate.set()
    for answer in answers:
        answer.join()
        if answer.error:
            raise answer.error
    return answers


def rate(url, streams, tokens, numbers):
    answers = ask(url, [prompt_of(numbers) for _ in range(streams)], tokens)
    first = min(a.times[0] for a in answers)
    last = max(a.times[-1] for a in answers)
    n = sum((a.usage or {}).get("completion_tokens") or len(a.times) for a in answers)
    ttft = statistics.median(a.times[0] - a.begin for a in answers)
    return (n - streams) / (last - first), ttft


def prefix(url, size, numbers):
    text = " ".join(f"{numbers.choice(['sea', 'tree', 'road', 'lamp'])} {numbers.randrange(10)}"
                    for _ in range(size // 3))
    times = []
    for ending in ("One.", "Two."):
        answer = ask(url, [text + " " + ending], 2)[0]
        times.append(answer.times[0] - answer.begin)
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("servers", nargs="+", metavar="NAME=URL")
    parser.add_argument("--streams", default="1,8")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prefix", type=int, default=2000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    servers = dict(s.split("=", 1) for s in options.servers)
    numbers = random.Random(time.time_ns())
    result = {name: {} for name in servers}
    for name, url in servers.items():
        rate(url, 2, 16, numbers)  # warm
    for streams in map(int, options.streams.split(",")):
        samples = {name: [] for name in servers}
        for _ in range(options.rounds):
            for name, url in servers.items():
                samples[name].append(rate(url, streams, options.tokens, numbers))
        for name, values in samples.items():
            rates = [v[0] for v in values]
            result[name][f"tok_s_{streams}"] = {
                "median": round(statistics.median(rates), 1), "min": round(min(rates), 1),
                "max": round(max(rates), 1)}
            result[name][f"first_token_s_{streams}"] = round(statistics.median(v[1] for v in values), 4)
    for name, url in servers.items() if options.prefix else ():
        shares = [prefix(url, options.prefix, numbers) for _ in range(options.rounds)]
        result[name]["prefix_first_s"] = round(statistics.median(s[0] for s in shares), 4)
        result[name]["prefix_again_s"] = round(statistics.median(s[1] for s in shares), 4)
        result[name]["prefix_share"] = round(statistics.median(s[1] / s[0] for s in shares), 4)
    if options.json:
        print(json.dumps(result))
    else:
        for name, figures in result.items():
            for key, value in figures.items():
                print(f"{name:10} {key:20} {value}")


main()

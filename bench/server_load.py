#!/usr/bin/env python3
"""Load on a running server: many concurrent streams, each checked for being whole and its own.

    bench/server_load.py --url http://127.0.0.1:8000 [--streams 64] [--seconds 120] [--max_tokens 64] [--json]

Every stream asks again and again until the time is over. Half of the requests carry a logit bias
that forces one word, another one for each stream: an answer with a foreign word was mixed up. The
other half has its own prompt, and its first token's log-probability must be the one that the same
prompt had when it was alone. Only the Python standard library is used. Exit code 1 if anything was
lost or mixed up.
"""
import argparse
import http.client
import json
import statistics
import sys
import threading
import time
import urllib.parse

TOLERANCE = 0.25  # of a log-probability: jobs of another shape round differently


class Client:
    def __init__(self, url, key=None):
        parts = urllib.parse.urlsplit(url)
        self.host, self.port = parts.hostname, parts.port or 80
        self.headers = {"Content-Type": "application/json"}
        if key:
            self.headers["Authorization"] = "Bearer " + key

    def post(self, path, body):
        connection = http.client.HTTPConnection(self.host, self.port, timeout=600)
        connection.request("POST", path, json.dumps(body), self.headers)
        return connection, connection.getresponse()

    def json(self, path, body):
        connection, answer = self.post(path, body)
        data = answer.read()
        connection.close()
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status}: {data[:300]!r}")
        return json.loads(data)


class Stream(threading.Thread):
    def __init__(self, client, index, word, expected, options, end):
        super().__init__(daemon=True)
        self.client, self.index, self.word, self.expected = client, index, word, expected
        self.options, self.end = options, end
        self.requests = self.tokens = self.refused = 0
        self.first, self.gaps, self.problems = [], [], []

    def body(self, forced):
        body = {"prompt": prompt(self.index), "max_tokens": self.options.max_tokens, "temperature": 0,
                "stream": True, "stream_options": {"include_usage": True}, "logprobs": 0,
                "ignore_eos": True}
        if forced:
            body["logit_bias"] = {str(self.word[0]): 100}
        return body

    def check(self, forced, text, logprobs, usage, done):
        if not done or usage is None:
            self.problems.append(f"stream {self.index}: cut off after {text!r}")
        elif usage["completion_tokens"] != self.options.max_tokens:
            self.problems.append(f"stream {self.index}: {usage['completion_tokens']} tokens")
        elif forced and text != self.word[1] * self.options.max_tokens:
            self.problems.append(f"stream {self.index}: {text[:80]!r} instead of {self.word[1]!r}")
        elif not forced and abs(logprobs[0] - self.expected) > TOLERANCE:
            self.problems.append(f"stream {self.index}: first token {logprobs[0]:.3f}, alone "
                                 f"{self.expected:.3f}")

    def ask(self, forced):
        begin = last = time.monotonic()
        connection, answer = self.client.post("/v1/completions", self.body(forced))
        if answer.status == 429:
            self.refused += 1
            wait = float(answer.headers["Retry-After"])
            answer.read()
            connection.close()
            time.sleep(min(wait, 1))
            return
        text, logprobs, usage, done = "", [], None, False
        for line in answer:
            if line.strip() == b"data: [DONE]":
                done = True
            elif line.startswith(b"data: "):
                event = json.loads(line[6:])
                usage = event.get("usage") or usage
                for choice in event.get("choices", []):
                    now = time.monotonic()
                    if choice["logprobs"] and choice["logprobs"]["token_logprobs"]:
                        (self.gaps if logprobs else self.first).append(
                            now - (last if logprobs else begin))
                        last = now
                        logprobs += choice["logprobs"]["token_logprobs"]
                    text += choice["text"]
        connection.close()
        self.requests += 1
        self.tokens += usage["completion_tokens"] if usage else 0
        self.check(forced, text, logprobs or [0.0], usage, done)

    def run(self):
        turn = self.index
        while time.monotonic() < self.end and len(self.problems) < 5:
            try:
                self.ask(turn % 2 == 0)
            except Exception as error:  # whatever it is, it is what the test is for
                self.problems.append(f"stream {self.index}: {type(error).__name__}: {error}")
            turn += 1


def prompt(index):
    topics = ["rivers", "bread", "clocks", "whales", "trains", "glass", "bees", "maps"]
    return f"Chapter {index}. A short note about {topics[index % 8]} and the number {index * 37}:"


def words(client, n):
    """n tokens that stand for themselves: (id, text)."""
    found = []
    for number in range(300, 3000):
        text = client.json("/detokenize", {"tokens": [number]})["prompt"]
        if text.startswith(" ") and text[1:].isalpha() and text.isascii():
            found.append((number, text))
        if len(found) == n:
            return found
    raise RuntimeError("the vocabulary has too few plain words")


def alone(client, index):
    body = {"prompt": prompt(index), "max_tokens": 1, "temperature": 0, "logprobs": 0}
    return client.json("/v1/completions", body)["choices"][0]["logprobs"]["token_logprobs"][0]


def quantiles(values):
    if len(values) < 2:
        return {"p50": None, "p95": None, "max": max(values, default=None)}
    cut = statistics.quantiles(values, n=100, method="inclusive")
    return {"p50": round(cut[49], 4), "p95": round(cut[94], 4), "max": round(max(values), 4)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--key")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--max_tokens", type=int, default=64)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    client = Client(options.url, options.key)
    chosen = words(client, options.streams)
    expected = [alone(client, i) for i in range(options.streams)]
    begin = time.monotonic()
    streams = [Stream(client, i, chosen[i], expected[i], options, begin + options.seconds)
               for i in range(options.streams)]
    for stream in streams:
        stream.start()
    for stream in streams:
        stream.join(options.seconds + 600)
    took = time.monotonic() - begin
    problems = [p for s in streams for p in s.problems]
    problems += [f"stream {s.index}: never answered" for s in streams if s.requests == 0]
    tokens = sum(s.tokens for s in streams)
    result = {"streams": options.streams, "seconds": round(took, 1),
              "requests": sum(s.requests for s in streams), "refused": sum(s.refused for s in streams),
              "tokens": tokens, "tok_s": round(tokens / took, 1),
              "first_token_s": quantiles([v for s in streams for v in s.first]),
              "inter_token_s": quantiles([v for s in streams for v in s.gaps]),
              "problems": problems[:20]}
    if options.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:14} {value}")
    sys.exit(1 if problems else 0)


main()

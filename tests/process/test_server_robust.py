"""The server under clients that leave, stall, flood and send rubbish, and under dying workers.

OFFERING_FUZZ_REQUESTS=10000 sends as many malformed requests instead of the few of a usual run."""
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time

from support import server_process, supervisor_process as process
from support.server_process import CHAT, Server, user

server_process.require()
FUZZ = int(os.environ.get("OFFERING_FUZZ_REQUESTS", "400"))
LONG = {"messages": user("Tell me a very long story about the sea."), "ignore_eos": True,
        "max_tokens": 900, "temperature": 0}
equal = process.equal


def expect(condition, *what):
    if not condition:
        raise AssertionError(" ".join(str(w) for w in what))


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        expect(time.monotonic() < end, "waited too long")
        time.sleep(0.02)


def send_raw(server, body, path=CHAT):
    data = json.dumps(body).encode()
    s = server.connect()
    s.sendall(b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
              % (path.encode(), len(data)) + data)
    return s


def read_all(s):
    data = b""
    while True:
        piece = s.recv(65536)
        if not piece:
            return data
        data += piece


def small(server):
    answer = server.json(CHAT, {"messages": user("Hi"), "max_tokens": 2})
    expect(answer["choices"][0]["finish_reason"] in ("stop", "length"), answer)


def clients_that_leave(server):
    for stream in (True, False):
        for leave in (lambda s: s.close(), lambda s: s.shutdown(socket.SHUT_WR)):
            s = send_raw(server, dict(LONG, stream=stream))
            until(lambda: server.metric("offering_sequences_running") == 1)
            leave(s)
            server.until_idle(20)
            s.close()
    small(server)


def slow_readers(server):
    s = server.connect()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    data = json.dumps(dict(LONG, max_tokens=80, stream=True, logprobs=True, top_logprobs=20)).encode()
    s.sendall(b"POST %s HTTP/1.0\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
              % (CHAT.encode(), len(data)) + data)
    until(lambda: server.metric("offering_sequences_running") == 1)
    small(server)
    server.until_idle()  # the answer is complete although nobody has read it
    text = read_all(s).decode()
    s.close()
    equal(text.count('"finish_reason":"length"'), 1)
    expect(text.rstrip().endswith("data: [DONE]"), text[-200:])
    equal(text.count('"top_logprobs":['), 80)


def requests_that_do_not_come(session):
    with Server(session, "--timeout", "1", "--connections", "40", "--context", "512") as server:
        begins = [b"", b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n",
                  b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90\r\n\r\n{\"pro"]
        for begin in begins:
            s = server.connect()
            s.sendall(begin)
            s.settimeout(30)
            read_all(s)
            s.close()
        drip = server.connect()
        drip.settimeout(0.2)
        end = time.monotonic() + 30
        closed = False
        while not closed:  # one byte at a time is no progress
            expect(time.monotonic() < end, "a client that drips is served for ever")
            try:
                drip.send(b"G")
                closed = drip.recv(1) == b""
            except socket.timeout:
                pass
            except OSError:
                closed = True
        crowd = [server.connect() for _ in range(60)]
        for s in crowd:
            s.close()
        until(lambda: server.request("/health")[0] == 200)
        small(server)


def mutated(numbers):
    """A request with something wrong, as bytes."""
    body = json.dumps(numbers.choice([
        {"messages": user("Hello"), "max_tokens": 1}, {"prompt": "a b", "max_tokens": 1},
        {"input": "x", "max_output_tokens": 1}, {"tokens": [1, 2, 3]},
        {"messages": user("x"), "stop": ["a"], "logit_bias": {"5": 1}, "n": 1, "max_tokens": 1}])).encode()
    path = numbers.choice(["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings",
                           "/tokenize", "/detokenize", "/v1/models", "/health", "/", "/%2e%2e/x", "/\xff"])
    kind = numbers.randrange(6)
    if kind == 0:
        body = numbers.randbytes(numbers.randrange(200))
    elif kind == 1:
        body = b"[" * numbers.randrange(1, 3000)
    elif kind == 2:
        at = numbers.randrange(len(body))
        body = body[:at] + numbers.randbytes(numbers.randrange(1, 5)) + body[at + numbers.randrange(4):]
    elif kind == 3:
        values = [None, -1, 1e308, "", [], {}, True, "\u0000", "9" * 400, [[]], 2 ** 70]
        names = ["messages", "prompt", "input", "tokens", "stop", "n", "seed", "logprobs", "stream", "tools",
                 "temperature", "logit_bias", "max_tokens", "model", "user", "response_format", "stream_options"]
        body = json.dumps({numbers.choice(names): numbers.choice(values) for _ in range(4)}
                          | {"max_tokens": 1}).encode()
    length = numbers.choice([len(body)] * 8 + [0, 5, len(body) + 20, -1, 10 ** 30, "x"])
    head = (f"{numbers.choice(['POST'] * 6 + ['GET', 'PUT', 'X' * 50, ''])} {path} "
            f"{numbers.choice(['HTTP/1.1'] * 8 + ['HTTP/9.9', 'FTP', ''])}\r\nHost: localhost\r\n"
            f"Content-Length: {length}\r\nConnection: close\r\n").encode("latin-1")
    extra = numbers.choice([b""] * 6 + [b"A" * 40000 + b": 1\r\n", b": \r\n", b"X\x00Y: 1\r\n",
                                        b"Transfer-Encoding: chunked\r\n", b"Content-Encoding: gzip\r\n",
                                        b"Expect: 100-continue\r\n"])
    request = head + extra + b"\r\n" + body
    if kind == 4:
        request = request[:numbers.randrange(len(request))]
    elif kind == 5:
        at = numbers.randrange(len(request))
        request = request[:at] + numbers.randbytes(3) + request[at + 3:]
    return request


def malformed_requests(session):
    # AddressSanitizer keeps what was freed, up to 256 MB: that is no leak, and would hide one.
    options = os.environ.get("ASAN_OPTIONS", "")
    session.environment["ASAN_OPTIONS"] = ":".join(filter(None, (options, "quarantine_size_mb=1")))
    with Server(session, "--context", "1024", "--slots", "4") as server:
        send_malformed(server)
    session.environment["ASAN_OPTIONS"] = options


def send_malformed(server):
    numbers = random.Random(7)
    before = None
    for i in range(FUZZ):
        if i == FUZZ // 4:  # caches are filled by then
            server.until_idle()
            before = server.resident(), server.descriptors()
        request = mutated(numbers)
        s = server.connect()
        try:
            s.sendall(request)
            s.shutdown(socket.SHUT_WR)
            s.settimeout(60)
            answer = read_all(s)
            if answer.startswith(b"HTTP/1.1 5"):
                # Not understood: libmicrohttpd's 505. Too busy or gone are not the client's fault.
                expect(answer[9:12] in (b"501", b"503", b"505"), request, answer[:300])
        except OSError:
            pass
        s.close()
    server.until_idle()
    small(server)
    after = server.resident(), server.descriptors()
    expect(after[1] <= before[1] + 4, f"descriptors: {before[1]}, then {after[1]}")
    expect(after[0] <= before[0] + (24 << 20), f"resident bytes: {before[0]}, then {after[0]}")


def a_full_queue(session):
    with Server(session, "--queue", "1") as server:
        slots = len(server.json("/status")["slots"])
        streams = []
        status = None
        for _ in range(5):  # an answer may end between the look at the queue and the request
            while server.metric("offering_sequences_waiting") < 1:
                streams.append(send_raw(server, dict(LONG, max_tokens=400, stream=True)))
                expect(len(streams) < 10 * slots, "the queue does not fill")
                time.sleep(0.05)
            status, headers, data = server.request(CHAT, {"messages": user("Hi")})
            if status == 429:
                break
        equal(status, 429)
        expect(int(headers["Retry-After"]) >= 1, headers)
        equal(json.loads(data)["error"]["type"], "rate_limit_error")
        for s in streams:
            s.close()
        server.until_idle()
        small(server)


def a_crowd(server):
    script = os.path.join(os.environ.get("OFFERING_SOURCE_DIR", "."), "bench", "server_load.py")
    run = subprocess.run([sys.executable, script, "--url", server.url, "--streams", "12", "--seconds", "4",
                          "--max_tokens", "12", "--json"], capture_output=True, text=True, timeout=400,
                         check=False)
    result = json.loads(run.stdout)
    equal((run.returncode, result["problems"]), (0, []), run.stderr)
    expect(result["requests"] >= 12, result)


class Forced(threading.Thread):
    """A stream whose every token is one word; its text at the end."""

    def __init__(self, server, word):
        super().__init__(daemon=True)
        self.server, self.word = server, word
        self.text, self.finish, self.error = "", None, None
        self.start()

    def run(self):
        try:
            body = {"messages": user("Story"), "max_tokens": 300, "ignore_eos": True,
                    "logit_bias": {str(self.word): 100}, "temperature": 0}
            for event in self.server.events(CHAT, body):
                if event:
                    expect("error" not in event, event)
                    self.text += event["choices"][0]["delta"].get("content", "")
                    self.finish = event["choices"][0]["finish_reason"]
        except Exception as error:  # told by the thread that waits
            self.error = error


def lost_devices(session, server):
    words = [server.json("/tokenize", {"prompt": w, "add_special_tokens": False})["tokens"][0]
             for w in (" sea", " tree", " stone")]
    for victim in ("worker", "executive"):
        streams = [Forced(server, word) for word in words]
        until(lambda: all(s.text or s.error for s in streams))
        pid = session.worker()["pid"] if victim == "worker" else session.executive()[0]
        os.kill(pid, signal.SIGKILL)
        for s, word in zip(streams, words):
            s.join(300)
            expect(s.error is None, victim, s.error)
            equal(s.finish, "length", victim)
            equal(s.text, server.json("/detokenize", {"tokens": [word] * 300})["prompt"], victim)
    equal(server.metric("offering_worker_losses_total"), 1)
    equal(server.metric("offering_executive_losses_total"), 1)
    small(server)


def what_outlives_a_server(session):
    prompt = "Some words that a long document begins with. " * 40
    body = {"prompt": prompt, "max_tokens": 2, "temperature": 0}
    with Server(session) as server:
        first = server.json("/v1/completions", body)["usage"]
        copied = server.metric("offering_prompt_tokens_copied_total")
        choices = server.json("/v1/completions", dict(body, n=3, temperature=1))["choices"]
        equal(len(choices), 3)
        expect(server.metric("offering_prompt_tokens_copied_total") > copied, "three prefills of one prompt")
        s = send_raw(server, dict(LONG, stream=True))
        until(lambda: server.metric("offering_sequences_running") == 1)
        begin = time.monotonic()
        equal(server.stop(), 0, "exit code with a stream running")
        expect(time.monotonic() - begin < 30, "it took long to stop")
        s.close()
    with Server(session) as server:
        second = server.json("/v1/completions", body)["usage"]
    equal(first["prompt_tokens_details"]["cached_tokens"], 0)
    equal(second["prompt_tokens_details"]["cached_tokens"], second["prompt_tokens"] - 1)


def stopped_at_once(session):
    for _ in range(4):
        server = Server(session, "--context", "512")
        equal(server.stop(), 0, "exit code of a server that has just begun to listen")


def what_outlives_an_executive(session):
    cache = session.path("cache")
    body = {"prompt": "Another long document begins with these words. " * 40, "max_tokens": 2, "temperature": 0}
    used = []
    for _ in range(2):
        with Server(session, "--context", "1024", "--slots", "2", "--cache_dir", cache) as server:
            used.append(server.json("/v1/completions", body)["usage"])
        subprocess.run([process.EXECUTIVE, "stop"], env=session.environment, check=True, timeout=120,
                       stdout=subprocess.DEVNULL)
        until(lambda: session.executive()[0] is None)
    equal(used[0]["prompt_tokens_details"]["cached_tokens"], 0)
    equal(used[1]["prompt_tokens_details"]["cached_tokens"], used[1]["prompt_tokens"] - 1)


def main():
    failed = 0

    def run(test, *arguments):
        nonlocal failed
        begin = time.monotonic()
        try:
            test(*arguments)
            print(f"ok   {test.__name__} ({time.monotonic() - begin:.1f} s)", flush=True)
        except Exception as error:  # one failure must not hide the others
            failed += 1
            print("FAIL", test.__name__, type(error).__name__, error, flush=True)

    with process.Session() as session:
        with Server(session, "--context", "1024", "--slots", "4") as server:
            for test in (clients_that_leave, slow_readers, a_crowd):
                run(test, server)
        run(malformed_requests, session)
        run(what_outlives_a_server, session)
        run(a_full_queue, session)
        run(stopped_at_once, session)
        with Server(session) as server:
            run(lost_devices, session, server)
    with process.Session() as session:
        run(requests_that_do_not_come, session)
    with process.Session() as session:
        run(what_outlives_an_executive, session)
    sys.exit(1 if failed else 0)


main()

"""The server as a process, and a client of plain sockets and http.client for it."""
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time

from support import supervisor_process as process


class Server:
    """`supervisor serve` on a free port of the loopback, in a session's environment."""

    def __init__(self, session, *arguments, port=0):
        self.session = session
        self.log = []
        self.process = subprocess.Popen(
            session.command("serve", "--port", str(port), *arguments), env=session.environment,
            cwd=session.directory, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True)
        self.port = None
        ready = threading.Event()
        threading.Thread(target=self._read, args=(ready,), daemon=True).start()
        if not ready.wait(120) or self.port is None:
            self.process.kill()
            raise AssertionError("the server does not start: " + "".join(self.log))
        self.url = f"http://127.0.0.1:{self.port}"

    def _read(self, ready):
        for line in self.process.stderr:
            self.log.append(line)
            match = re.search(r"listening on http://.*:(\d+)$", line.strip())
            if match:
                self.port = int(match.group(1))
                ready.set()
        ready.set()

    def __enter__(self):
        return self

    def __exit__(self, kind, *unused):
        code = self.stop()
        if kind is None and code != 0:
            raise AssertionError(f"the server ended with {code}: " + "".join(self.log)[-3000:])

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=120)

    def request(self, path, body=None, headers=None, method=None):
        """(status, headers, body as bytes)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=180)
        data = body if body is None or isinstance(body, (bytes, str)) else json.dumps(body)
        connection.request(method or ("GET" if data is None else "POST"), path, data,
                           dict({"Content-Type": "application/json"}, **(headers or {})))
        answer = connection.getresponse()
        result = answer.status, answer.headers, answer.read()
        connection.close()
        return result

    def json(self, path, body=None, status=200, **options):
        got, _, data = self.request(path, body, **options)
        if got != status:
            raise AssertionError(f"{path}: {got}, expected {status}: {data[:500]!r}")
        return json.loads(data)

    def events(self, path, body):
        """The JSON of each event of a stream; [DONE] as None."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=180)
        connection.request("POST", path, json.dumps(dict(body, stream=True)),
                           {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise AssertionError(f"{path}: {answer.status}: {answer.read()!r}")
        for line in answer:
            if line.startswith(b"data: "):
                yield None if line.strip() == b"data: [DONE]" else json.loads(line[6:])
        connection.close()

    def metric(self, name):
        _, _, data = self.request("/metrics")
        for line in data.decode().splitlines():
            if line.startswith(name) and line[len(name)] in " {":
                return float(line.rsplit(" ", 1)[1])
        raise AssertionError(f"no metric {name}")

    def until_idle(self, seconds=60):
        end = time.monotonic() + seconds
        while self.metric("offering_sequences_running") or self.metric("offering_sequences_waiting"):
            if time.monotonic() > end:
                raise AssertionError("sequences keep running")
            time.sleep(0.05)

    def resident(self):
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as file:
            for line in file:
                if line.startswith("VmRSS:"):
                    return int(line.split()[1]) * 1024
        return 0

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


CHAT = "/v1/chat/completions"


def user(text):
    return [{"role": "user", "content": text}]


def require():
    process.require()

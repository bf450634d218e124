"""A model hub on loopback with the real one's behaviour: a listing, redirects of large files to another
host, ranges, checksums, tokens, and every fault that a network or a server has."""
import hashlib
import http.server
import json
import os
import re
import socket
import threading
import urllib.parse

LARGE = (".safetensors", ".gguf")


class Quiet(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request, client_address):
        pass  # a client that goes away is what these tests are about


class File:
    """A large file: read as far as it is asked for."""

    def __init__(self, path):
        self.path = path

    def __len__(self):
        return os.path.getsize(self.path)

    def __getitem__(self, span):
        with open(self.path, "rb") as f:
            f.seek(span.start)
            return f.read(span.stop - span.start)


class Hub:
    """`files`: {"ORG/NAME": {"file": bytes or a path}}. `fault`, if set, is called with (host, path,
    begin) for every request and returns None or a dict:
      status, headers       that answer instead
      cut                   bytes of the body until the connection breaks
      slow                  seconds before the first byte
      drip                  seconds between pieces of the body
      stall                 bytes of the body until nothing more comes, for ever
      short                 bytes that the answer is too short by
      false_size            added to the sizes of large files in the listing
      total                 a false size in Content-Range
      damage                the first byte of the body is another
      whole                 the range is ignored"""

    def __init__(self, files, token=None, gated=(), sizes=True, sha256=True):
        self.files, self.token, self.gated = files, token, gated
        self.sizes, self.sha256 = sizes, sha256
        self.commit = "c0ffee" + "0" * 34
        self.fault = None
        self.log = []  # (host, path, authorization, range)
        self.digests = {}
        self.valid = set()  # signatures of the other host's addresses
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self.hub, self.endpoint = self.start("hub")
        self.cdn, self.cdn_url = self.start("cdn")

    def start(self, name):
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                owner.answer(name, self)

            def log_message(self, *args):
                pass

        server = Quiet(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        # The second host has another name, not only another port.
        host = "127.0.0.1" if name == "hub" else "localhost"
        return server, "http://%s:%d" % (host, server.server_address[1])

    def close(self):
        self.closing.set()
        for server in (self.hub, self.cdn):
            server.shutdown()
            server.server_close()

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.close()

    def environment(self, **more):
        env = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and "proxy" not in k.lower()}
        return {**env, "HF_ENDPOINT": self.endpoint, "HF_HOME": "/nonexistent", **more}

    # ---- answers ----

    def answer(self, host, request):
        path = urllib.parse.urlsplit(request.path)
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
        begin = int(span.group(1)) if span else 0
        with self.lock:
            self.log.append((host, request.path, request.headers.get("Authorization"),
                             request.headers.get("Range")))
        fault = (self.fault(host, path.path, begin) if self.fault else None) or {}
        if "status" in fault:
            self.send(request, fault["status"], b"no", fault.get("headers", {}))
        elif host == "cdn":
            name = path.path.split("/", 2)[2]
            if path.query not in self.valid:
                self.send(request, 403, b"expired", {})
            else:
                self.send_file(request, self.content(*name.rsplit("|", 1)), span, fault)
        elif path.path.startswith("/api/models/"):
            self.send_listing(request, path.path[len("/api/models/"):], fault)
        else:
            self.send_resolved(request, path.path.lstrip("/"), span, fault)

    def refused(self, request, model):
        given = request.headers.get("Authorization")
        if self.token and given != "Bearer " + self.token:
            self.send(request, 401, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
            return True
        if model not in self.files:
            self.send(request, 404, b"", {"X-Error-Code": "RepoNotFound"})
            return True
        return False

    def send_listing(self, request, rest, fault):
        model, revision = rest.split("/revision/")
        if self.refused(request, model):
            return
        if urllib.parse.unquote(revision) not in ("main", "refs/pr/1", self.commit):
            self.send(request, 404, b"", {"X-Error-Code": "RevisionNotFound"})
            return
        siblings = []
        for name in sorted(self.files[model]):
            data = self.content(model, name)
            entry = {"rfilename": name}
            if self.sizes:
                entry["size"] = len(data)
                if name.endswith(LARGE):
                    entry["size"] += fault.get("false_size", 0)
                    entry["lfs"] = {"size": entry["size"], "sha256": self.digest(data)}
                    if not self.sha256:
                        del entry["lfs"]
                else:
                    whole = data[0:len(data)]
                    entry["blobId"] = hashlib.sha1(b"blob %d\0" % len(whole) + whole).hexdigest()
            siblings.append(entry)
        self.send(request, 200, json.dumps({"sha": self.commit, "siblings": siblings}).encode(), {}, fault)

    def send_resolved(self, request, rest, span, fault):
        model, file = rest.split("/resolve/")
        if self.refused(request, model):
            return
        if model in self.gated:
            self.send(request, 403, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
            return
        revision, name = file.split("/", 1)
        name = urllib.parse.unquote(name)
        if name not in self.files[model]:
            self.send(request, 404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        data = self.content(model, name)
        if not name.endswith(LARGE):
            self.send_file(request, data, span, fault)
            return
        with self.lock:
            signature = "signature=%d" % len(self.log)
            self.valid.add(signature)
        headers = {"Location": "%s/f/%s|%s?%s" % (self.cdn_url, model, name, signature),
                   "X-Repo-Commit": self.commit, "X-Linked-Size": str(len(data))}
        if self.sha256:
            headers["X-Linked-Etag"] = '"%s"' % self.digest(data)
        self.send(request, 302, b"", headers)

    def content(self, model, name):
        data = self.files[model][name]
        return File(data) if isinstance(data, str) else data

    def digest(self, data):
        if not isinstance(data, File):
            return hashlib.sha256(data).hexdigest()
        with self.lock:
            if data.path not in self.digests:
                with open(data.path, "rb") as f:
                    self.digests[data.path] = hashlib.file_digest(f, "sha256").hexdigest()
            return self.digests[data.path]

    def send_file(self, request, data, span, fault):
        if not span or "whole" in fault:
            self.send(request, 200, data[0:len(data)], {}, fault)
            return
        begin, end = int(span.group(1)), min(int(span.group(2)) + 1, len(data))
        if begin >= len(data):
            self.send(request, 416, b"", {"Content-Range": "bytes */%d" % len(data)})
            return
        total = fault.get("total", len(data))
        self.send(request, 206, data[begin:end],
                  {"Content-Range": "bytes %d-%d/%d" % (begin, end - 1, total)}, fault)

    def send(self, request, status, body, headers, fault=None):
        fault = fault or {}
        if fault.get("slow"):
            threading.Event().wait(fault["slow"])
        if fault.get("damage"):
            body = bytes([body[0] ^ 1]) + body[1:]
        if fault.get("short"):
            body = body[:-fault["short"]]
        request.send_response(status)
        for key, value in headers.items():
            request.send_header(key, value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if "cut" in fault:
            request.wfile.write(body[:fault["cut"]])
            request.wfile.flush()
            request.connection.shutdown(socket.SHUT_RDWR)
            request.close_connection = True
            return
        if "stall" in fault:
            request.wfile.write(body[:fault["stall"]])
            request.wfile.flush()
            request.close_connection = True
            self.closing.wait(60)
            return
        step = len(body) // 8 + 1 if fault.get("drip") else len(body) or 1
        for at in range(0, len(body), step):
            if at:
                self.closing.wait(fault["drip"])
            request.wfile.write(body[at:at + step])
            request.wfile.flush()


def read_directory(directory):
    """The files of a checkpoint, for Hub.files."""
    return {name: open(os.path.join(directory, name), "rb").read() for name in os.listdir(directory)}

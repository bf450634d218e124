"""executive_shard as a process: starting, stopping, being killed, clients that misbehave."""
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time

from support import supervisor_process as process

process.require()


def program(session, name, *arguments, **options):
    return subprocess.run([os.path.join(process.BIN, name), *arguments], env=session.environment,
                          capture_output=True, text=True, timeout=120, check=False, **options)


def start(session):
    run = program(session, "executive_shard", "run", "--model", process.PACKAGE)
    assert run.returncode == 0, run.stderr


def status(session):
    run = program(session, "executive_shard", "status", "--json")
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def until(condition):
    process.until(condition, "a state of the executive")


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as f:
            return f.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def socket_path(session):
    root = os.path.join(session.runtime, "offering")
    return os.path.join(root, os.listdir(root)[0], "executive.sock")


def connect(session):
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client.settimeout(120)
    client.connect(socket_path(session))
    return client


def ask(client, message):
    client.send(json.dumps(message).encode())
    return json.loads(client.recv(65536))


def answer(session):
    run = program(session, "supervisor", "run", "--model", process.PACKAGE, "--prompt", "Hello",
                  "--max_tokens", "8", "--json")
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)["ids"]


def it_starts_and_stops(session):
    start(session)
    info = status(session)
    worker = info["workers"][0]
    assert info["client"] is None and worker["state"] == "idle", info
    assert alive(info["pid"]) and alive(worker["pid"]) and worker["pid"] != info["pid"]
    assert info["n_slots"] >= 1 and info["context"] > 0
    mode = os.stat(socket_path(session)).st_mode & 0o777
    assert mode == 0o600, oct(mode)
    process.no_segments_stay()
    again = program(session, "executive_shard", "run", "--model", process.PACKAGE)
    assert again.returncode == 0 and str(info["pid"]) in again.stderr, again.stderr
    stop = program(session, "executive_shard", "stop")
    assert stop.returncode == 0, stop.stderr
    until(lambda: not alive(info["pid"]) and not alive(worker["pid"]))
    gone = program(session, "executive_shard", "status")
    assert gone.returncode == 1 and gone.stderr, gone


def a_killed_executive_leaves_nothing(session):
    start(session)
    first = status(session)
    os.kill(first["pid"], signal.SIGKILL)
    until(lambda: not alive(first["pid"]) and not alive(first["workers"][0]["pid"]))
    process.no_segments_stay()
    assert os.path.exists(socket_path(session)), "the stale socket is what is under test"
    start(session)
    assert status(session)["pid"] != first["pid"]
    assert answer(session)


def a_killed_worker_comes_back(session):
    start(session)
    before = answer(session)
    first = status(session)["workers"][0]
    os.kill(first["pid"], signal.SIGKILL)
    begin = time.monotonic()
    until(lambda: session.worker()["generation"] > first["generation"] and
          session.worker()["state"] == "idle")
    took = time.monotonic() - begin
    second = status(session)["workers"][0]
    assert second["pid"] != first["pid"] and second["restarts"] == 1, second
    assert second["generation"] == first["generation"] + 1
    assert answer(session) == before
    print(f"     back after {took * 1000:.0f} ms")


def a_worker_that_keeps_dying_is_quarantined(session):
    run = program(session, "executive_shard", "run", "--model", process.PACKAGE,
                  "--failure_window", "3600")
    assert run.returncode == 0, run.stderr
    killed = set()

    def quarantined():
        worker = session.worker()
        if worker["state"] == "idle" and worker["generation"] not in killed:
            killed.add(worker["generation"])
            os.kill(worker["pid"], signal.SIGKILL)
        return worker["state"] == "quarantined"

    until(quarantined)
    worker = session.worker()
    assert len(killed) == 3, killed
    assert "SIGKILL" in worker["failure"], worker
    run = program(session, "supervisor", "run", "--model", process.PACKAGE, "--prompt", "Hello")
    assert run.returncode == 1 and "failed" in run.stderr, run.stderr


def a_second_client_is_told_who_holds_it(session):
    start(session)
    first = connect(session)
    assert ask(first, {"op": "hello", "version": 1, "program": "tester"})["ok"]
    assert ask(first, {"op": "attach"})["ok"]
    run = program(session, "supervisor", "run", "--model", process.PACKAGE, "--prompt", "Hello")
    assert run.returncode == 1, run.stdout
    assert "tester" in run.stderr and str(os.getpid()) in run.stderr, run.stderr
    first.close()
    assert answer(session), "the attachment ends with its client"


def strange_messages_are_refused(session):
    start(session)
    numbers = random.Random(1)
    messages = [b"", b"{", b"[]", b"{}", b"\xff\xfe", b'{"op":7}', b'{"op":"fly"}',
                b'{"op":"attach"}', b'{"op":"hello"}', b'{"op":"hello","version":99,"program":"x"}',
                b'{"op":"status","op":"stop"}', b"[" * 5000, b"x" * 70000]
    messages += [numbers.randbytes(numbers.randrange(1, 300)) for _ in range(200)]
    for message in messages:
        client = connect(session)
        try:
            client.send(message)
            if message:
                reply = client.recv(65536)
                assert not reply or not json.loads(reply)["ok"], (message[:40], reply)
        except (BrokenPipeError, ConnectionResetError):
            pass
        client.close()
    assert answer(session)


def two_starts_at_once(session):
    command = [process.EXECUTIVE, "run", "--model", process.PACKAGE]
    runs = [subprocess.Popen(command, env=session.environment, stderr=subprocess.PIPE, text=True)
            for _ in range(2)]
    texts = [run.communicate(timeout=120)[1] for run in runs]
    assert 0 in [run.returncode for run in runs], texts
    pid = status(session)["pid"]
    assert all(str(pid) in text for text in texts), (pid, texts)


def a_bad_package_is_named(session):
    for model in (session.path("absent"), session.directory):
        run = program(session, "executive_shard", "run", "--model", model)
        assert run.returncode == 1, (model, run.returncode)
        assert "model.json" in run.stderr or model in run.stderr, run.stderr
    for arguments in (["fly"], ["run", "extra"], ["--slots", "99"], ["--modle", "x"]):
        run = program(session, "executive_shard", *arguments)
        assert run.returncode == 2 and run.stderr, (arguments, run.returncode, run.stderr)


def main():
    failed = 0
    for test in (it_starts_and_stops, a_killed_executive_leaves_nothing, a_killed_worker_comes_back,
                 a_worker_that_keeps_dying_is_quarantined, a_second_client_is_told_who_holds_it,
                 strange_messages_are_refused, two_starts_at_once, a_bad_package_is_named):
        with process.Session() as session:
            try:
                test(session)
                print("ok  ", test.__name__)
            except Exception as error:
                failed += 1
                print("FAIL", test.__name__, type(error).__name__, error)
    sys.exit(1 if failed else 0)


main()

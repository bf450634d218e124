"""Workers and executives that are killed, frozen or corrupted in the middle of work: the request
goes on with the same tokens, and nothing is left behind."""
import json
import os
import re
import signal
import subprocess
import threading
import time

from support import supervisor_process as process

process.require()
PROMPT = "List the planets of the solar system and say one sentence about each of them."
TOKENS = 24


def program(session, name, *arguments):
    return subprocess.run([os.path.join(process.BIN, name), *arguments], env=session.environment,
                          capture_output=True, text=True, timeout=120, check=False)


def start(session, *arguments):
    run = program(session, "executive_shard", "run", "--model", process.PACKAGE, *arguments)
    assert run.returncode == 0, run.stderr


def status(session):
    run = program(session, "executive_shard", "status", "--json")
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def worker(session):
    return status(session)["workers"][0]


def until(condition, what, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited too long for: {what}"
        time.sleep(0.01)


def state_of(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as f:
            return f.read().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return ""


def generate(session, prompt=PROMPT, tokens=TOKENS):
    return session.json("run", "--prompt", prompt, "--max_tokens", str(tokens), "--temperature",
                        "0", "--ignore_eos")


class Request:
    """One generation in the background."""

    def __init__(self, session, **options):
        self.result = self.error = None
        self.thread = threading.Thread(target=self._run, args=(session,), kwargs=options)
        self.thread.start()

    def _run(self, session, **options):
        try:
            self.result = generate(session, **options)
        except (AssertionError, OSError, subprocess.SubprocessError) as error:
            self.error = error

    def ids(self):
        self.thread.join(timeout=120)
        assert not self.thread.is_alive(), "the request does not end"
        if self.error:
            raise self.error
        return self.result["ids"]


def wait_for_tokens(session, before, more):
    until(lambda: worker(session)["decode_tokens"] >= before + more, "tokens")


def killed_in_decode(session):
    start(session)
    expected = generate(session)["ids"]
    before = worker(session)
    request = Request(session)
    wait_for_tokens(session, before["decode_tokens"], 3)
    os.kill(before["pid"], signal.SIGKILL)
    assert request.ids() == expected
    after = worker(session)
    assert after["restarts"] == 1 and after["pid"] != before["pid"], after
    assert "SIGKILL" in after["failure"], after


def killed_in_prefill(session):
    start(session)
    prompt = "word " * 300
    before = worker(session)
    request = Request(session, prompt=prompt, tokens=4)
    until(lambda: worker(session)["progress"] > before["progress"] + 2, "the prefill")
    os.kill(before["pid"], signal.SIGKILL)
    after_kill = request.ids()
    assert worker(session)["restarts"] == 1
    program(session, "executive_shard", "stop")
    until(lambda: session.executive() == (None, []), "the executive's end")
    start(session)
    assert generate(session, prompt=prompt, tokens=4)["ids"] == after_kill


def frozen_in_decode(session):
    """SIGSTOP: the watchdog sees no progress and stopped threads, and replaces the worker."""
    start(session)
    expected = generate(session)["ids"]
    before = worker(session)
    request = Request(session)
    wait_for_tokens(session, before["decode_tokens"], 3)
    os.kill(before["pid"], signal.SIGSTOP)
    begin = time.monotonic()
    until(lambda: state_of(before["pid"]) == "", "the end of the frozen worker")
    took = time.monotonic() - begin
    assert request.ids() == expected
    after = worker(session)
    assert after["restarts"] == 1 and "no progress" in after["failure"], after
    assert "stopped" in after["failure"], after
    print(f"     noticed after {took * 1000:.0f} ms")


def frozen_between_requests(session):
    start(session)
    expected = generate(session)["ids"]
    before = worker(session)
    os.kill(before["pid"], signal.SIGSTOP)
    assert generate(session)["ids"] == expected
    assert worker(session)["restarts"] == 1


def all_stopped_and_continued(session):
    """A suspended session: everything stops, then everything goes on; no alarm."""
    start(session)
    expected = generate(session)["ids"]
    first = status(session)
    request = Request(session)
    wait_for_tokens(session, first["workers"][0]["decode_tokens"], 3)
    pids = session.processes()
    pids.sort(key=lambda pid: pid != first["pid"])
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(1.5)
    for pid in reversed(pids):
        os.kill(pid, signal.SIGCONT)
    assert request.ids() == expected
    after = status(session)["workers"][0]
    assert after["restarts"] == 0 and after["pid"] == first["workers"][0]["pid"], after


def kv_mappings(pid):
    """(begin, end) of the shared memory that the worker maps, largest first."""
    found = []
    with open(f"/proc/{pid}/maps", encoding="ascii") as f:
        for line in f:
            match = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw-s .*/dev/shm/offering-", line)
            if match:
                found.append((int(match[1], 16), int(match[2], 16)))
    return sorted(found, key=lambda m: m[0] - m[1])


def not_a_number(session):
    """NaN written into the strips of a living worker: its logits are refused, the text is right."""
    start(session)
    expected = generate(session)["ids"]
    before = worker(session)
    request = Request(session)
    wait_for_tokens(session, before["decode_tokens"], 3)
    try:
        os.kill(before["pid"], signal.SIGSTOP)
        begin, _ = kv_mappings(before["pid"])[0]
        with open(f"/proc/{before['pid']}/mem", "r+b", buffering=0) as memory:
            memory.seek(begin)
            memory.write(b"\x00\x7e" * 2048)
    except PermissionError:
        os.kill(before["pid"], signal.SIGCONT)
        request.ids()
        print("     skipped: this user may not write another process's memory")
        return
    os.kill(before["pid"], signal.SIGCONT)
    assert request.ids() == expected
    after = worker(session)
    assert after["restarts"] == 1 and "not numbers" in after["failure"], after


def cannot_start_again(session):
    """The package is gone when the worker is to be restarted: quarantine, with the reason."""
    copy = session.path("package")
    subprocess.run(["cp", "-r", process.PACKAGE, copy], check=True)
    run = program(session, "executive_shard", "run", "--model", copy)
    assert run.returncode == 0, run.stderr
    pid = worker(session)["pid"]
    os.rename(copy, copy + ".moved")
    os.kill(pid, signal.SIGKILL)
    until(lambda: worker(session)["state"] == "quarantined", "quarantine")
    info = status(session)
    assert "package" in info["workers"][0]["failure"], info["workers"][0]
    stop = program(session, "executive_shard", "stop")
    assert stop.returncode == 0, stop.stderr


def the_supervisor_is_killed(session):
    start(session)
    expected = generate(session)["ids"]
    before = worker(session)
    client = session.start("run", "--prompt", PROMPT, "--max_tokens", "2000", "--ignore_eos")
    wait_for_tokens(session, before["decode_tokens"], 3)
    client.kill()
    client.wait()
    for pipe in (client.stdin, client.stdout, client.stderr):
        pipe.close()
    until(lambda: status(session)["client"] is None, "the client's end")
    assert generate(session)["ids"] == expected
    after = worker(session)
    assert after["restarts"] == 0 and after["pid"] == before["pid"], "weights stay warm"


def the_executive_is_killed(session):
    start(session)
    expected = generate(session)["ids"]
    info = status(session)
    client = session.start("run", "--prompt", PROMPT, "--max_tokens", "2000", "--ignore_eos")
    wait_for_tokens(session, info["workers"][0]["decode_tokens"], 3)
    os.kill(info["pid"], signal.SIGKILL)
    _, errors = client.communicate(timeout=60)
    assert client.returncode == 1 and b"executive" in errors, errors
    until(lambda: session.executive() == (None, []), "the workers' end")
    assert [n for n in os.listdir("/dev/shm") if n.startswith("offering-")] == []
    assert generate(session)["ids"] == expected, "another one is started when asked"


def asked_to_stop_it_lets_a_client_finish(session):
    start(session)
    expected = generate(session)["ids"]
    info = status(session)
    request = Request(session)
    wait_for_tokens(session, info["workers"][0]["decode_tokens"], 3)
    os.kill(info["pid"], signal.SIGTERM)
    assert request.ids() == expected
    until(lambda: state_of(info["pid"]) == "", "the executive's end")


def resources(pid):
    with open(f"/proc/{pid}/statm", encoding="ascii") as f:
        pages = int(f.read().split()[1])
    return len(os.listdir(f"/proc/{pid}/fd")), pages * 4096


def kills_leak_nothing(session):
    """A few here; tests/soak/soak.py does a thousand."""
    start(session, "--failure_window", "0")
    generate(session, tokens=2)
    pid = status(session)["pid"]

    def kill_one():
        first = worker(session)
        os.kill(first["pid"], signal.SIGKILL)
        until(lambda: worker(session)["generation"] > first["generation"] and
              worker(session)["state"] == "idle", "the next worker")

    for _ in range(3):
        kill_one()
    descriptors, memory = resources(pid)
    for _ in range(10):
        kill_one()
    assert resources(pid)[0] == descriptors, (resources(pid), descriptors)
    assert resources(pid)[1] < memory + (8 << 20), (resources(pid), memory)
    zombies = [p for p in os.listdir("/proc") if p.isdigit() and state_of(p) == "Z" and
               f" {pid} " in open(f"/proc/{p}/stat", encoding="ascii").read()]
    assert zombies == [], zombies
    assert generate(session, tokens=2)["ids"]


def in_a_session(test):
    def run():
        with process.Session() as session:
            test(session)
    run.__name__ = test.__name__
    return run


process.run_tests([in_a_session(test) for test in (
    killed_in_decode, killed_in_prefill, frozen_in_decode, frozen_between_requests,
    all_stopped_and_continued, not_a_number, cannot_start_again, the_supervisor_is_killed,
    the_executive_is_killed, asked_to_stop_it_lets_a_client_finish, kills_leak_nothing)])

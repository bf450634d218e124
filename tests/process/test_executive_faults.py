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
from support.supervisor_process import contains, equal, until

process.require()
PROMPT = "List the planets of the solar system and say one sentence about each of them."
# How often a test may come too late to find the request still at work.
ATTEMPTS = 5


def program(session, name, *arguments):
    return subprocess.run([os.path.join(process.BIN, name), *arguments], env=session.environment,
                          capture_output=True, text=True, timeout=120, check=False)


def start(session, *arguments):
    run = program(session, "executive_shard", "run", "--model", process.PACKAGE, *arguments)
    assert run.returncode == 0, run.stderr


def state_of(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as f:
            return f.read().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return ""


def generate(session, prompt=PROMPT, tokens=None):
    """(token ids, stderr)"""
    done = session.run("run", "--prompt", prompt, "--max_tokens", str(tokens or TOKENS), "--json",
                       "--temperature", "0", "--ignore_eos")
    return json.loads(done.stdout)["ids"], done.stderr.decode()


class TooLate(Exception):
    """The fault came when the request had its answer already: the test is to be run again."""


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
        self.thread.join(timeout=process.TIMEOUT)
        assert not self.thread.is_alive(), "the request does not end"
        if self.error:
            raise self.error
        return self.result[0]

    def ids_after_fault(self):
        """Of a request that must have noticed a fault, and gone on."""
        ids = self.ids()
        if "going on" not in self.result[1]:
            raise TooLate()
        return ids


def wait_for_tokens(session, before, more):
    until(lambda: session.worker()["decode_tokens"] >= before + more, "tokens")


def time_to_go_on(session, before, begin):
    """Prints how long after `begin` the next worker served, and gave its first token."""
    up = token = None
    while token is None and time.monotonic() < begin + 60:
        worker = session.worker()
        now = time.monotonic()
        if worker["generation"] > before["generation"]:
            if up is None and worker["state"] in ("idle", "busy"):
                up = now
            if worker["decode_tokens"] > 0:
                token = now
        time.sleep(0.002)
    if up and token:
        print(f"     next worker after {(up - begin) * 1000:.0f} ms, "
              f"next token after {(token - begin) * 1000:.0f} ms")


def killed_in_decode(session):
    start(session)
    before = session.worker()
    request = Request(session)
    wait_for_tokens(session, before["decode_tokens"], 3)
    os.kill(before["pid"], signal.SIGKILL)
    time_to_go_on(session, before, time.monotonic())
    equal(request.ids_after_fault(), EXPECTED)
    after = session.worker()
    assert after["restarts"] == 1 and after["pid"] != before["pid"], after
    assert "SIGKILL" in after["failure"], after


def killed_in_prefill(session):
    start(session)
    prompt = "word " * 150
    expected, _ = generate(session, prompt=prompt, tokens=4)
    program(session, "executive_shard", "stop")
    until(lambda: session.executive() == (None, []), "the executive's end")
    start(session)
    before = session.worker()
    request = Request(session, prompt=prompt, tokens=4)
    until(lambda: session.worker()["progress"] > before["progress"] + 2, "the prefill")
    if session.worker()["decode_tokens"]:
        request.ids()
        raise TooLate()
    os.kill(before["pid"], signal.SIGKILL)
    equal(request.ids_after_fault(), expected)
    equal(session.worker()["restarts"], 1)


def killed_between_tokens(session):
    """The client has a token and does not ask for the next one."""
    start(session)
    words = ("run", "--prompt", PROMPT, "--max_tokens", "40", "--ignore_eos")
    expected = session.run(*words).stdout
    held = session.held(*words).answering()
    until(lambda: session.worker()["state"] == "idle", "the worker's last job")
    before = session.worker()
    os.kill(before["pid"], signal.SIGKILL)
    until(lambda: session.worker()["generation"] > before["generation"], "the next worker")
    code, out, errors = held.rest()
    equal(code, 0, errors)
    equal(out, expected, "the text after a lost worker")
    contains(errors, "going on")


def frozen_in_decode(session):
    """SIGSTOP: the watchdog sees no progress and stopped threads, and replaces the worker."""
    start(session)
    before = session.worker()
    request = Request(session)
    wait_for_tokens(session, before["decode_tokens"], 3)
    os.kill(before["pid"], signal.SIGSTOP)
    begin = time.monotonic()
    if session.worker()["state"] == "idle":
        os.kill(before["pid"], signal.SIGCONT)
        request.ids()
        raise TooLate()
    until(lambda: state_of(before["pid"]) == "", "the end of the frozen worker")
    print(f"     noticed after {(time.monotonic() - begin) * 1000:.0f} ms")
    time_to_go_on(session, before, begin)
    equal(request.ids_after_fault(), EXPECTED)
    after = session.worker()
    assert after["restarts"] == 1 and "no progress" in after["failure"], after
    contains(after["failure"], "stopped")


def frozen_between_requests(session):
    start(session)
    before = session.worker()
    os.kill(before["pid"], signal.SIGSTOP)
    equal(generate(session)[0], EXPECTED)
    equal(session.worker()["restarts"], 1)


def all_stopped_and_continued(session):
    """A suspended session: everything stops, then everything goes on; no alarm."""
    start(session)
    first = session.status()
    request = Request(session)
    wait_for_tokens(session, first["workers"][0]["decode_tokens"], 3)
    pids = session.processes()
    pids.sort(key=lambda pid: pid != first["pid"])
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    # What is under test is time that passes: more than the watchdog has patience for.
    time.sleep(1.5)
    for pid in reversed(pids):
        os.kill(pid, signal.SIGCONT)
    equal(request.ids(), EXPECTED)
    after = session.worker()
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
    before = session.worker()
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
    equal(request.ids_after_fault(), EXPECTED)
    after = session.worker()
    assert after["restarts"] == 1 and "not numbers" in after["failure"], after


def cannot_start_again(session):
    """The package is gone when the worker is to be restarted: quarantine, with the reason."""
    copy = session.path("package")
    subprocess.run(["cp", "-r", process.PACKAGE, copy], check=True)
    run = program(session, "executive_shard", "run", "--model", copy)
    assert run.returncode == 0, run.stderr
    pid = session.worker()["pid"]
    os.rename(copy, copy + ".moved")
    os.kill(pid, signal.SIGKILL)
    until(lambda: session.worker()["state"] == "quarantined", "quarantine")
    info = session.status()
    assert "package" in info["workers"][0]["failure"], info["workers"][0]
    stop = program(session, "executive_shard", "stop")
    assert stop.returncode == 0, stop.stderr


def the_supervisor_is_killed(session):
    start(session)
    before = session.worker()
    client = session.held("run", "--prompt", PROMPT, "--max_tokens", "200", "--ignore_eos")
    client.answering()
    client.process.kill()
    client.rest()
    until(lambda: session.status()["client"] is None, "the client's end")
    equal(generate(session)[0], EXPECTED)
    after = session.worker()
    assert after["restarts"] == 0 and after["pid"] == before["pid"], "weights stay warm"


def the_executive_is_killed(session):
    start(session)
    pid = session.status()["pid"]
    client = session.held("run", "--prompt", PROMPT, "--max_tokens", "200", "--ignore_eos")
    client.answering()
    os.kill(pid, signal.SIGKILL)
    code, _, errors = client.rest()
    equal(code, 1, errors)
    contains(errors, "executive")
    until(lambda: session.executive() == (None, []), "the workers' end")
    process.no_segments_stay()
    left = [name for _, _, names in os.walk(session.runtime) for name in names]
    equal(sorted(set(left)), ["executive.log", "lock"], "the client has removed the socket")
    equal(generate(session)[0], EXPECTED, "another one is started when asked")


def asked_to_stop_it_lets_a_client_finish(session):
    start(session)
    info = session.status()
    request = Request(session)
    wait_for_tokens(session, info["workers"][0]["decode_tokens"], 3)
    os.kill(info["pid"], signal.SIGTERM)
    equal(request.ids(), EXPECTED)
    until(lambda: state_of(info["pid"]) == "", "the executive's end")


def resources(pid):
    with open(f"/proc/{pid}/statm", encoding="ascii") as f:
        pages = int(f.read().split()[1])
    return len(os.listdir(f"/proc/{pid}/fd")), pages * 4096


def zombies_of(pid):
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/stat", encoding="ascii") as f:
                fields = f.read().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields[0] == "Z" and fields[1] == str(pid):
            found.append(entry)
    return found


def kills_leak_nothing(session):
    """A few here; tests/soak/soak.py does a thousand."""
    # AddressSanitizer keeps what was freed for a while: that is no leak.
    session.environment["ASAN_OPTIONS"] = "quarantine_size_mb=1"
    start(session, "--failure_window", "0")
    generate(session, tokens=2)
    pid = session.status()["pid"]

    def kill_one():
        first = session.worker()
        os.kill(first["pid"], signal.SIGKILL)
        until(lambda: session.worker()["generation"] > first["generation"] and
              session.worker()["state"] == "idle", "the next worker")

    for _ in range(3):
        kill_one()
    descriptors, memory = resources(pid)
    for _ in range(10):
        kill_one()
    # The executive may not have noticed yet that the client of the last question is gone.
    until(lambda: resources(pid)[0] <= descriptors, "the descriptors of dead workers")
    assert resources(pid)[1] < memory + (16 << 20), (resources(pid), memory)
    until(lambda: zombies_of(pid) == [], "the end of zombies")
    assert generate(session, tokens=2)[0]


def in_a_session(test):
    def run():
        for attempt in range(ATTEMPTS):
            try:
                with process.Session() as session:
                    test(session)
                return
            except TooLate:
                print(f"     attempt {attempt + 1}: the request had ended before the fault")
        raise AssertionError("the fault always came too late")
    run.__name__ = test.__name__
    return run


def calibrate():
    """An answer that takes this machine more than a second, and what it is."""
    with process.Session() as session:
        start(session)
        generate(session, tokens=8)
        begin = time.monotonic()
        generate(session, tokens=24)
        tokens = int(24 * 1.2 / (time.monotonic() - begin))
        tokens = max(24, min(tokens, 300))
        return tokens, generate(session, tokens=tokens)[0]


TOKENS, EXPECTED = calibrate()
print(f"     answers of {TOKENS} tokens")
process.run_tests([in_a_session(test) for test in (
    killed_in_decode, killed_in_prefill, killed_between_tokens, frozen_in_decode, frozen_between_requests,
    all_stopped_and_continued, not_a_number, cannot_start_again, the_supervisor_is_killed,
    the_executive_is_killed, asked_to_stop_it_lets_a_client_finish, kills_leak_nothing)])

"""executive_shard status: once, watched as JSON lines, watched on a terminal."""
import json
import os
import subprocess
import time

from support import supervisor_process as process

process.require()


def start(session):
    run = subprocess.run([process.EXECUTIVE, "run", "--model", process.PACKAGE],
                         env=session.environment, capture_output=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr


def status(session):
    run = subprocess.run([process.EXECUTIVE, "status", "--json"], env=session.environment,
                         capture_output=True, timeout=60, check=True)
    return json.loads(run.stdout)


def it_knows_the_machine(session):
    start(session)
    end = time.monotonic() + 30
    while not status(session)["health"]["devices"]:
        assert time.monotonic() < end, "no telemetry came"
        time.sleep(0.2)
    health = status(session)["health"]
    devices = {device["name"]: device for device in health["devices"]}
    assert devices["cpu"]["condition"] in ("ok", "warm", "throttled"), devices
    machine = health["system"]
    assert 0 < machine["memory_available_bytes"] <= machine["memory_total_bytes"], machine
    assert 0 < machine["shm_free_bytes"] <= machine["shm_total_bytes"], machine
    text = subprocess.run([process.EXECUTIVE, "status"], env=session.environment, text=True,
                          capture_output=True, timeout=60, check=True).stdout
    for word in ("instance", "worker", "/dev/shm", "device", "cpu"):
        assert f"\n{word}" in "\n" + text, text


def counters_tell_prefill_from_decode(session):
    start(session)
    session.json("run", "--prompt", "one two three four", "--max_tokens", "5", "--ignore_eos")
    worker = status(session)["workers"][0]
    # The first token comes out of the prefill; the last one is not forwarded.
    assert worker["decode_tokens"] in (4, 5), worker
    assert worker["tokens"] > worker["decode_tokens"], worker
    assert worker["progress"] > 2 * worker["jobs"], "layers count as progress"


def a_watch_of_lines(session):
    start(session)
    run = subprocess.Popen([process.EXECUTIVE, "status", "--watch", "--json"],
                           env=session.environment, stdout=subprocess.PIPE, text=True)
    frames = [json.loads(run.stdout.readline()) for _ in range(3)]
    assert frames[0]["pid"] == frames[2]["pid"]
    assert frames[2]["uptime_ms"] > frames[0]["uptime_ms"]
    subprocess.run([process.EXECUTIVE, "stop"], env=session.environment, check=True,
                   capture_output=True, timeout=60)
    assert run.wait(timeout=60) == 1, "the executive's end ends the watch"
    run.stdout.close()


def a_watch_on_a_terminal(session):
    start(session)
    terminal = process.Terminal([process.EXECUTIVE, "status", "--watch"], session.environment,
                                session.directory)
    first = terminal.until("energy")
    assert "\x1b[?1049h" in first and "instance" in first, first
    terminal.until("now: prefill")
    terminal.send("q")
    terminal.until("\x1b[?1049l")
    assert terminal.finish() == 0


def in_a_session(test):
    def run():
        with process.Session() as session:
            test(session)
    run.__name__ = test.__name__
    return run


process.run_tests([in_a_session(test) for test in (
    it_knows_the_machine, counters_tell_prefill_from_decode, a_watch_of_lines,
    a_watch_on_a_terminal)])

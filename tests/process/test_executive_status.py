"""executive_shard status: once, watched as JSON lines, watched on a terminal."""
import ctypes.util
import json
import os
import socket
import subprocess

from support import machines
from support import supervisor_process as process
from support.supervisor_process import contains, equal, until

process.require()


def start(session, *arguments):
    run = subprocess.run([process.EXECUTIVE, "run", "--model", process.PACKAGE, *arguments],
                         env=session.environment, capture_output=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr


def status(session):
    run = subprocess.run([process.EXECUTIVE, "status", "--json"], env=session.environment,
                         capture_output=True, timeout=60, check=True)
    return json.loads(run.stdout)


def it_knows_the_machine(session):
    start(session)
    until(lambda: session.status()["health"]["devices"], "telemetry")
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
    # "auto" may measure first, which is work too.
    session.json("run", "--prompt", "one two three four", "--max_tokens", "5", "--ignore_eos",
                 "--plan", "cpu")
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


def devices_that_throttle_and_run_out_of_memory(session):
    """A Lunar Lake with an Arc card, played by the fake driver: its integrated GPU throttles, the
    card's memory is full. The status shows it, the log and the attached client are told, once."""
    if not ctypes.util.find_library("ze_loader") or not os.path.exists(machines.DRIVERS["gpu"]):
        print("     skipped: no Level Zero loader, or no fake driver")
        return
    with machines.lunar_lake_with_arc() as machine:
        machine.ze = machine.ze.replace("temperature 48 52 61", "temperature 70 97").replace(
            "throttle 0 0 8", "throttle 0 8").replace("memory_used 2e9 15.9e9",
                                                      "memory_used 2e9 16e9")
        played = machine.environment()
        session.environment.update({key: played[key] for key in
                                    ("OFFERING_FAKE_ZE", "ZE_ENABLE_ALT_DRIVERS")})
        start(session, "--root", machine.root)
        root = os.path.join(session.runtime, "offering")
        directory = os.path.join(root, os.listdir(root)[0])
        client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        client.settimeout(process.TIMEOUT)
        client.connect(os.path.join(directory, "executive.sock"))
        client.send(b'{"op":"hello","version":1,"program":"watcher"}')
        assert json.loads(client.recv(65536))["ok"]
        client.send(b'{"op":"attach"}')
        told = {}
        while len(told) < 2:
            message = json.loads(client.recv(65536))
            if message.get("event") == "condition":
                assert message["device"] not in told, "told once"
                told[message["device"]] = message
        equal({name: t["condition"] for name, t in told.items()},
              {"igpu": "throttled", "dgpu": "out_of_memory"})
        contains(told["igpu"]["text"], "97 C")
        contains(told["igpu"]["text"], "plans count it as slower")
        contains(told["dgpu"]["text"], "plans avoid it")
        health = status(session)["health"]
        devices = {device["name"]: device for device in health["devices"]}
        equal(devices["igpu"]["condition"], "throttled")
        equal(devices["igpu"]["temperature_c"], 97)
        equal(devices["dgpu"]["condition"], "out_of_memory")
        equal(devices["dgpu"]["memory_total_bytes"], 16225243136)
        assert health["conditions_version"] >= 2, health
        text = subprocess.run([process.EXECUTIVE, "status"], env=session.environment, text=True,
                              capture_output=True, timeout=60, check=True).stdout
        contains(text, "throttled")
        with open(os.path.join(directory, "executive.log"), encoding="utf-8") as file:
            log = file.read()
        equal(log.count("igpu is throttled"), 1, log)
        equal(log.count("dgpu is out of memory"), 1, log)
        client.close()


def a_chat_is_told(session):
    """What changes while a chat is open is said before its next answer."""
    with machines.Machine().cpu().gpu() as machine:
        gt = "/sys/devices/pci0000:00/0000:00:02.0/drm/card0/gt/gt0"
        machine.file(f"{gt}/throttle_reason_status", "0\n")
        session.environment["ZE_ENABLE_ALT_DRIVERS"] = "libabsent.so"
        start(session, "--root", machine.root)
        terminal = session.terminal("chat", "--plan", "cpu", "--max_tokens", "2")
        terminal.prompt()
        machine.file(f"{gt}/throttle_reason_thermal", "1\n")
        machine.file(f"{gt}/throttle_reason_status", "1\n")
        until(lambda: "throttled" in [device["condition"] for device in
                                      session.status()["health"]["devices"]], "throttling")
        terminal.send("Hello\r")
        contains(terminal.until("tok/s"), "igpu is throttled: thermal, 1950 MHz; plans count it")
        terminal.prompt()
        terminal.send("/quit\r")
        equal(terminal.finish(), 0)


process.run_tests([process.in_a_session(test) for test in (
    it_knows_the_machine, counters_tell_prefill_from_decode, a_watch_of_lines,
    a_watch_on_a_terminal, devices_that_throttle_and_run_out_of_memory, a_chat_is_told)])

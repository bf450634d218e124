"""supervisor: executives and workers killed under a running prompt, and two at once."""
import json
import os
import signal
import time

from support.supervisor_process import Session, contains, equal, require, run_tests

require()
LONG = ("run", "--prompt", "Write a long story about a dragon.", "--max_tokens", "150",
        "--ignore_eos")


def read_some(process, size):
    data = b""
    while len(data) < size:
        piece = os.read(process.stdout.fileno(), size - len(data))
        assert piece, process.stderr.read()
        data += piece
    return data


def executive_killed_mid_answer():
    with Session() as s:
        expected = s.run(*LONG).stdout
        p = s.start(*LONG)
        head = read_some(p, 60)
        executive, _ = s.executive()
        os.kill(executive, signal.SIGKILL)
        begin = time.time()
        rest, err = p.communicate(timeout=60)
        equal(p.returncode, 1, err)
        assert time.time() - begin < 20, "the supervisor noticed late"
        contains(err, "executive")
        contains(err, str(executive))
        out = (head + rest).rstrip(b"\n")
        assert expected.startswith(out) and len(out) < len(expected) - 1, (out, expected)
        equal(s.run(*LONG).stdout, expected, "the next run starts another")


def executive_killed_in_a_chat():
    with Session() as s:
        t = s.terminal("chat", "--temperature", "0", "--max_tokens", "200")
        t.prompt()
        t.send("Write a long story about a dragon.\r")
        t.answering()
        executive, _ = s.executive()
        os.kill(executive, signal.SIGKILL)
        t.until("starts another executive", timeout=30)
        t.prompt()
        t.send("What is the capital of France?\r")
        contains(t.until("tok/s"), "Paris")
        t.prompt()
        assert s.executive()[0] not in (None, executive)
        t.send("/quit\r")
        equal(t.finish(), 0)


def worker_killed_mid_answer():
    with Session() as s:
        expected = s.run(*LONG).stdout
        p = s.start(*LONG)
        head = read_some(p, 60)
        _, workers = s.executive()
        assert workers, "no worker process"
        os.kill(workers[0], signal.SIGKILL)
        rest, err = p.communicate(timeout=120)
        equal(p.returncode, 0, err)
        equal(head + rest, expected, "the text after a lost worker")
        contains(err, "going on")


def two_supervisors_at_once():
    with Session() as s:
        s.run("run", "--prompt", "a", "--max_tokens", "1")
        p = s.start(*LONG)
        read_some(p, 20)
        done = s.run("run", "--prompt", "b", code=1)
        contains(done.stderr, str(p.pid), "the holder's pid")
        contains(done.stderr, "supervisor")
        p.communicate(timeout=120)
        equal(p.returncode, 0)
        s.run("run", "--prompt", "b", "--max_tokens", "1")


def interrupted_run():
    with Session() as s:
        p = s.start(*LONG, "--json")
        time.sleep(0.2)
        while not s.executive()[1]:
            time.sleep(0.05)
        time.sleep(1.5)
        p.send_signal(signal.SIGINT)
        out, err = p.communicate(timeout=60)
        equal(p.returncode, 1, err)
        contains(err, "interrupted")
        equal(json.loads(out)["finish_reason"], "canceled")


run_tests([executive_killed_mid_answer, executive_killed_in_a_chat, worker_killed_mid_answer,
           two_supervisors_at_once, interrupted_run])

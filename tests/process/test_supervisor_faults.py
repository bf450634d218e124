"""supervisor: executives and workers killed under a running prompt, and two at once.

Each answer is held in its middle by a full pipe (Held), so that no step depends on speed."""
import json
import os
import signal
import socket
import threading

from support.supervisor_process import Session, contains, equal, require, run_tests, until

require()
LONG = ("run", "--prompt", "Write a long story about a dragon.", "--max_tokens", "100",
        "--ignore_eos")


def executive_killed_mid_answer():
    with Session() as s:
        expected = s.run(*LONG).stdout
        p = s.held(*LONG).answering()
        executive = s.status()["pid"]
        os.kill(executive, signal.SIGKILL)
        code, out, err = p.rest()
        equal(code, 1, err)
        contains(err, "executive")
        contains(err, str(executive))
        out = out.rstrip(b"\n")
        assert expected.startswith(out) and len(out) < len(expected) - 1, (out, expected)
        equal(s.run(*LONG).stdout, expected, "the next run starts another")


def executive_that_is_about_to_end():
    """Its socket is still there, but gives no answer: another one is started when it is gone."""
    with Session() as s:
        directory = os.path.join(s.runtime, "offering", "going")
        os.makedirs(directory, 0o700)
        os.chmod(os.path.dirname(directory), 0o700)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(os.path.join(directory, "executive.sock"))
        listener.listen()
        visits = []

        def end():
            for _ in range(2):
                peer, _ = listener.accept()
                peer.recv(1, socket.MSG_PEEK)
                peer.close()  # what it sent is unread: a reset
                visits.append(peer)
            os.unlink(os.path.join(directory, "executive.sock"))
            listener.close()

        thread = threading.Thread(target=end)
        thread.start()
        done = s.run("run", "--instance", "going", "--prompt", "What is the capital of France?",
                     "--max_tokens", "40")
        thread.join()
        equal(len(visits), 2)
        contains(done.stdout, "Paris")


def executive_killed_in_a_chat():
    with Session() as s:
        t = s.terminal("chat", "--temperature", "0", "--max_tokens", "300")
        t.prompt()
        executive = s.status()["pid"]
        t.send("Write a long story about a dragon.\r")
        t.answering()
        os.kill(executive, signal.SIGKILL)
        t.until("starts another executive")
        t.prompt()
        t.send("What is the capital of France?\r")
        # What comes depends on where the first answer ended: that it comes is enough.
        t.until("tok/s")
        t.prompt()
        assert s.status()["pid"] != executive
        t.send("/quit\r")
        equal(t.finish(), 0)


def worker_killed_mid_answer():
    with Session() as s:
        expected = s.run(*LONG).stdout
        p = s.held(*LONG).answering()
        os.kill(s.worker()["pid"], signal.SIGKILL)
        code, out, err = p.rest()
        equal(code, 0, err)
        equal(out, expected, "the text after a lost worker")
        contains(err, "going on")


def two_supervisors_at_once():
    with Session() as s:
        s.run("run", "--prompt", "a", "--max_tokens", "1")
        p = s.held(*LONG, after=20).answering()
        done = s.run("run", "--prompt", "b", code=1)
        contains(done.stderr, str(p.pid), "the holder's pid")
        contains(done.stderr, "supervisor")
        code, _, err = p.rest()
        equal(code, 0, err)
        s.run("run", "--prompt", "b", "--max_tokens", "1")


def interrupted_run():
    with Session() as s:
        p = s.start("run", "--prompt", "Write a long story about a dragon.", "--max_tokens", "1900",
                    "--ignore_eos", "--json")
        until(lambda: (s.status() or {"workers": [{"decode_tokens": 0}]})["workers"][0]
              ["decode_tokens"] > 2, "tokens")
        p.send_signal(signal.SIGINT)
        out, err = p.communicate(timeout=300)
        equal(p.returncode, 1, err)
        contains(err, "interrupted")
        equal(json.loads(out)["finish_reason"], "canceled")


run_tests([executive_killed_mid_answer, executive_that_is_about_to_end, executive_killed_in_a_chat,
           worker_killed_mid_answer, two_supervisors_at_once, interrupted_run])

"""supervisor chat: on a pseudo-terminal and without one."""
import json
import os
import signal
import stat
import time

from support.supervisor_process import Session, contains, equal, require, run_tests

require()
GREEDY = ("chat", "--temperature", "0")
LONG = "Write a long story about a dragon."


def a_conversation_on_a_terminal():
    with Session() as s:
        t = s.terminal(*GREEDY, "--max_tokens", "40")
        t.prompt()
        t.send("What is the capital of France?\r")
        contains(t.until("tok/s"), "Paris")
        t.until("decode")
        t.prompt()
        t.send("And of Italy?\r")
        second = t.until("tok/s")
        t.prompt()
        # 40-odd tokens of the first turn are in the KV: only the new ones are prefilled.
        prefilled = int(second.rsplit("prefill ", 1)[1].split()[0])
        assert prefilled < 30, second
        t.send("/stats\r")
        contains(t.until("decode  "), "turns      2")
        t.prompt()
        t.send("/quit\r")
        equal(t.finish(), 0)
        history = os.path.join(s.state, "offering", "chat_history")
        equal(stat.S_IMODE(os.stat(history).st_mode), 0o600)
        with open(history) as file:
            contains(file.read(), "Italy")


def answers_stream():
    with Session() as s:
        # A machine may keep this reader from running, so that pieces come together: one attempt of
        # several has to see them apart.
        t = s.terminal(*GREEDY, "--max_tokens", "60")
        t.prompt()
        most = 0
        for _ in range(5):
            t.send(LONG + "\r")
            t.until(LONG)
            pieces = 0
            while b"tok/s" not in t.unread:
                t._more(time.time() + 300)
                pieces += 1
            t.prompt()
            most = max(most, pieces)
            if most > 10:
                break
        assert most > 10, f"the answer came in {most} pieces"
        t.send(b"\x04")
        equal(t.finish(), 0)


def ctrl_c_stops_the_answer_only():
    with Session() as s:
        t = s.terminal(*GREEDY, "--max_tokens", "300")
        t.prompt()
        executive, _ = s.executive()
        t.send(LONG + "\r")
        t.answering()
        t.send(b"\x03")
        stopped = t.until("stopped]")
        assert "^C" not in stopped, "keys do not show inside of an answer"
        t.prompt()
        equal(s.executive()[0], executive, "the executive lives on")
        # What comes now depends on where the first answer was stopped: that it comes is enough.
        t.send("What is the capital of France?\r")
        t.until("tok/s")
        t.prompt()
        t.send(b"half a line\x03")
        t.until("leaves)")
        t.prompt()
        t.send("/stats\r")
        contains(t.until("decode  "), "turns      2", "the dropped line was not sent")
        t.prompt()
        t.send(b"\x03")
        t.prompt()
        t.send(b"\x03")
        equal(t.finish(), 0)


def history_and_paste():
    with Session() as s:
        t = s.terminal(*GREEDY, "--max_tokens", "4")
        t.prompt()
        t.send("/save " + s.path("empty.json") + "\r")
        t.until("saved 0 messages")
        t.prompt()
        t.send(b"\x1b[200~one caf\xc3\xa9\rtwo\r\x1b[201~")
        t.until("two")
        t.send("\r")
        t.until("tok/s")
        t.prompt()
        t.send("/save " + s.path("paste.json") + "\r")
        t.until("saved 2 messages")
        t.prompt()
        with open(s.path("paste.json")) as file:
            equal(json.load(file)["messages"][0]["content"], "one caf\u00e9\ntwo")
        # A line from the history is redrawn in pieces: its effect is what can be checked.
        t.send(b"\x1b[A\x1b[A\x1b[A\r")
        contains(t.until("saved 2 messages to ", "tok/s"), "saved")
        t.until("empty.json")
        t.prompt()
        t.send(b"\x04")
        equal(t.finish(), 0)
        again = s.terminal(*GREEDY)
        again.prompt()
        again.send(b"\x1b[A\r")
        again.until("saved 0 messages to ")
        again.until("empty.json")
        again.prompt()
        again.send(b"\x04")
        equal(again.finish(), 0)


def commands():
    with Session() as s:
        saved = s.path("c.json")
        lines = ["/help", "/system Answer in one word.", "What is the capital of France?",
                 f"/save {saved}", "/reset", "/stats", "/foo", "/save", f"/load {s.path('none')}",
                 f"/load {saved}", "/stats", "/help me", "/system", f"/save {saved}2", "/quit",
                 "never sent"]
        done = s.run(*GREEDY, "--max_tokens", "16", stdin="\n".join(lines) + "\n")
        err = done.stderr.decode()
        for part in ("/help", "/reset", "/system", "saved 3 messages", "turns      0",
                     "unknown command /foo", "/save needs a FILE", "not loaded", "loaded 3 messages",
                     "turns      1", "/help takes no argument", "is removed", "tok/s"):
            contains(err, part)
        equal(err.count("[prefill"), 1, "answers")
        with open(saved) as file:
            equal([m["role"] for m in json.load(file)["messages"]],
                  ["system", "user", "assistant"])
        with open(saved + "2") as file:
            equal([m["role"] for m in json.load(file)["messages"]], ["user", "assistant"])
        equal(stat.S_IMODE(os.stat(saved).st_mode), 0o600)


def without_a_terminal():
    with Session() as s:
        done = s.run(*GREEDY, "--max_tokens", "30",
                     stdin="What is the capital of France?\n\n  \nSay hi.")
        contains(done.stdout, "Paris")
        equal(done.stderr.decode().count("[prefill"), 2, "answers")
        assert b"\x1b" not in done.stdout + done.stderr, "escape sequences in a pipe"
        equal(s.run(*GREEDY, stdin="").stdout, b"")
        done = s.run(*GREEDY, "--max_tokens", "4", stdin=b"a\xff\nSay hi.\n")
        contains(done.stderr, "byte offset 1")
        equal(done.stderr.decode().count("[prefill"), 1, "the next message is answered")


def a_full_context_drops_the_oldest_turns():
    story = "Tell me a story about a dragon.\nTell me one about a wolf.\nAnd one about a cat.\n"
    with Session() as s:
        done = s.run(*GREEDY, "--context", "128", "--max_tokens", "60", stdin=story)
        contains(done.stderr, "the context holds 128")
        contains(done.stderr, "dropped the oldest")
        equal(done.stderr.decode().count("[prefill"), 3, "answers")
        done = s.run(*GREEDY, "--context", "128", "--context_overflow", "stop", stdin=story)
        contains(done.stderr, "the answer is cut here")
        contains(done.stderr, "/reset begins a new one")
        done = s.run(*GREEDY, "--context", "128", stdin="word " * 200 + "\nSay hi.\n")
        contains(done.stderr, "the message is too long")
        equal(done.stderr.decode().count("[prefill"), 1, "the next message is answered")
        t = s.terminal(*GREEDY, "--context", "128", "--max_tokens", "60")
        t.prompt()
        for line in story.splitlines()[:2]:
            t.send(line + "\r")
            if "[Y/n]" in t.until("tok/s", "[Y/n] "):
                t.send("y\r")
                t.until("dropped the oldest 1 turn")
                t.until("tok/s")
                break
            t.prompt()
        else:
            raise AssertionError("the chat did not ask")
        t.prompt()
        t.send("/quit\r")
        equal(t.finish(), 0)


def ctrl_c_without_a_terminal():
    with Session() as s:
        p = s.start(*GREEDY, "--max_tokens", "300")
        p.stdin.write((LONG + "\n").encode())
        p.stdin.flush()
        p.stdout.read(40)
        p.send_signal(signal.SIGINT)
        _, err = p.communicate(b"What is the capital of France?\n", timeout=600)
        equal(p.returncode, 0, err)
        contains(err, "stopped]")
        equal(err.decode().count("[prefill"), 2, "answers")


run_tests([a_conversation_on_a_terminal, answers_stream, ctrl_c_stops_the_answer_only,
           history_and_paste, commands, without_a_terminal, a_full_context_drops_the_oldest_turns,
           ctrl_c_without_a_terminal])

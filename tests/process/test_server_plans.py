"""The server on plans over several devices: the OpenVINO CPU plug-in stands in for an NPU. Every feature of the
API answers as it does on one device, prompts go on while answers do, and a lost worker costs no answer. Where
"auto" was asked for, the plan follows the conditions of the devices, also under a running answer."""
import itertools
import os
import signal
import subprocess
import sys
import threading

from support import machines, server_process, supervisor_process as process
from support.planned import PlannedSession
from support.server_process import CHAT, Server, user

server_process.require()
if not os.environ.get("OFFERING_BUILD_DIR"):
    process.skip("OFFERING_BUILD_DIR is not set")
CACHE = os.path.join(os.environ["OFFERING_BUILD_DIR"], "test_packages", "cache")
MAT = "the cat sat on the mat, " * 6 + "the cat"  # the next tokens lead by 3.6 and more
LONG = "Some words that a long document begins with. " * 80
equal, contains = process.equal, process.contains


def expect(condition, *what):
    if not condition:
        raise AssertionError(" ".join(str(w) for w in what))


def features(server):
    """The parts of the API that the devices see; test_server_api.py has the others."""
    body = {"prompt": MAT, "max_tokens": 4, "temperature": 0, "logprobs": 3, "n": 2}
    choices = server.json("/v1/completions", body)["choices"]
    equal([c["text"] for c in choices], [" sat on the mat"] * 2)
    expect(choices[0]["logprobs"]["token_logprobs"][0] > -0.2, choices[0])
    again = server.json("/v1/completions", dict(body, n=1))["usage"]
    equal(again["prompt_tokens_details"]["cached_tokens"], again["prompt_tokens"] - 1, "reused")
    stopped = server.json("/v1/completions", {"prompt": MAT, "max_tokens": 9, "temperature": 0, "stop": " the"})
    equal((stopped["choices"][0]["text"], stopped["choices"][0]["finish_reason"]), (" sat on", "stop"))
    zebra = server.json("/tokenize", {"prompt": " zebra", "add_special_tokens": False})["tokens"][:1]
    forced = {"messages": user("Hello"), "max_tokens": 5, "logit_bias": {str(zebra[0]): 100}, "stream": True,
              "stream_options": {"include_usage": True}}
    events = [e for e in server.events(CHAT, forced) if e]
    equal("".join(c["delta"].get("content", "") for e in events for c in e["choices"]),
          server.json("/detokenize", {"tokens": zebra * 5})["prompt"])
    equal(events[-1]["usage"]["completion_tokens"], 5)
    named = server.json(CHAT, {"messages": user("Hello"), "response_format": {
        "type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["red", "blue"]}}}})
    expect(named["choices"][0]["message"]["content"] in ('"red"', '"blue"'), named)
    seeded = {"messages": user("Tell me a story."), "seed": 5, "max_tokens": 8, "temperature": 1.5,
              "cache_prompt": False}
    equal(*[server.json(CHAT, seeded)["choices"][0]["message"]["content"] for _ in range(2)], "the same seed")
    words = ["The cat sat on the mat.", "A cat was sitting on a mat.", "Stocks fell sharply on Monday."]
    a, b, c = (d["embedding"] for d in server.json("/v1/embeddings", {"input": words})["data"])
    dot = lambda x, y: sum(p * q for p, q in zip(x, y))
    expect(abs(dot(a, a) - 1) < 1e-3 and dot(a, b) > dot(a, c) + 0.03, dot(a, b), dot(a, c))
    long = server.json("/v1/embeddings", {"input": [LONG]})
    expect(long["usage"]["prompt_tokens"] > 600 and abs(dot(*[long["data"][0]["embedding"]] * 2) - 1) < 1e-3)
    equal(server.json("/health"), {"status": "ok"})


class Answer(threading.Thread):
    """A long answer, each token the same word; with what it hears before `done` is set."""

    def __init__(self, server, word, tokens):
        super().__init__(daemon=True)
        self.server, self.word, self.tokens = server, word, tokens
        self.text, self.error, self.begun = "", None, threading.Event()
        self.start()

    def run(self):
        try:
            for event in self.server.events("/v1/completions", {
                    "prompt": MAT, "max_tokens": self.tokens, "ignore_eos": True, "temperature": 0,
                    "logit_bias": {str(self.word): 100}}):
                if event:
                    expect("error" not in event, event)
                    self.text += event["choices"][0]["text"]
                    self.begun.set()
        except Exception as error:  # told by the thread that waits
            self.error = error
        self.begun.set()

    def check(self):
        self.join(300)
        expect(self.error is None, self.error)
        equal(self.text, self.server.json("/detokenize", {"tokens": [self.word] * self.tokens})["prompt"])


def at_once(server, apart):
    """A long prompt while an answer runs; then a worker dies under both."""
    word = server.json("/tokenize", {"prompt": " sea", "add_special_tokens": False})["tokens"][0]
    before = server.metric("offering_decode_jobs_overlapped_total")
    answer = Answer(server, word, 150)
    expect(answer.begun.wait(120), "no answer")
    server.json("/v1/completions", {"prompt": "A new one. " + LONG, "max_tokens": 1})
    answer.check()
    overlapped = server.metric("offering_decode_jobs_overlapped_total") - before
    equal(overlapped > 0, apart, f"{overlapped} jobs overlapped")


def a_lost_worker(server):
    word = server.json("/tokenize", {"prompt": " tree", "add_special_tokens": False})["tokens"][0]
    for index in range(2):
        answer = Answer(server, word, 100)
        expect(answer.begun.wait(120), "no answer")
        os.kill(server.json("/status")["executive"]["workers"][index]["pid"], signal.SIGKILL)
        answer.check()


class Repetition(threading.Thread):
    """A long answer whose text is known, read until it is told to leave."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.server, self.text, self.tokens, self.error = server, "", 0, None
        self.leaving = threading.Event()
        self.start()

    def run(self):
        try:
            for event in self.server.events("/v1/completions", {
                    "prompt": MAT, "max_tokens": 8000, "ignore_eos": True, "temperature": 0}):
                expect(event and "error" not in event, event, "after", self.tokens, "tokens")
                self.text += event["choices"][0]["text"]
                self.tokens += 1
                if self.leaving.is_set():
                    return
        except Exception as error:  # told by the thread that waits
            self.error = error

    def more(self, n=12):
        """Waits for so many more tokens."""
        wanted = self.tokens + n
        process.until(lambda: self.tokens >= wanted or self.error or not self.is_alive(), "tokens")
        expect(self.tokens >= wanted, self.error, self.text[-200:])

    def leave(self):
        self.leaving.set()
        self.join(120)
        expect(self.error is None, self.error)
        expected = "".join(itertools.islice(itertools.cycle(" sat on the mat, the cat"), len(self.text)))
        equal(self.text, expected, "the answer")


JOINED, ALONE = "prefill=openvino:CPU,decode=cpu", "prefill=cpu,decode=cpu"


class Throttling:
    """A PlannedSession on a machine whose GPU throttles when it is told to, with figures by which
    OpenVINO reads prompts unless that GPU does: its executive runs, with so many slots."""

    def __init__(self, slots, throttled):
        self.session, self.machine = PlannedSession(), machines.Machine().cpu().gpu()
        self.slots, self.gt = slots, "/sys/devices/pci0000:00/0000:00:02.0/drm/card0/gt/gt0"
        self.throttle(throttled)

    def throttle(self, on):
        self.throttled = on
        for name in ("thermal", "status"):
            self.machine.file(f"{self.gt}/throttle_reason_{name}", f"{int(on)}\n")

    def __enter__(self):
        session = self.session.__enter__()
        session.write_figures({"cpu": ((16, 160), (512, 4000)), "openvino:CPU": ((16, 130), (512, 3200))},
                              machine="igpu")
        subprocess.run([process.EXECUTIVE, "stop"], env=session.environment, check=True, timeout=60,
                       capture_output=True)  # `plan` has started one, for this machine
        process.until(lambda: session.executive()[0] is None, "its end")
        os.makedirs(CACHE, exist_ok=True)
        session.environment.update({"OFFERING_CACHE_DIR": CACHE, "ZE_ENABLE_ALT_DRIVERS": "libabsent.so"})
        subprocess.run([process.EXECUTIVE, "run", "--model", session.package, "--root", self.machine.root,
                        "--context", "8192", "--slots", str(self.slots), "--idle_worker", "0"],
                       env=session.environment, check=True, timeout=120, capture_output=True)
        process.until(lambda: self.condition() == ("throttled" if self.throttled else "ok"), "telemetry")
        return self

    def condition(self):
        devices = self.session.status()["health"]["devices"]
        return next((d["condition"] for d in devices if d["name"] == "igpu"), None)

    def __exit__(self, *what):
        self.session.__exit__(*what)
        self.machine.__exit__(*what)


def plan_of(server):
    return server.json("/status")["plan"]


def told(server, text):
    return sum(text in line for line in server.log)


def wait_until_told(server, text):
    process.until(lambda: told(server, text), text)
    equal(told(server, text), 1, text)


def the_plan_follows_conditions():
    """Nothing is measured, what the strips hold stays, and a running answer goes on."""
    with Throttling(2, False) as t, Server(t.session) as server:
        if plan_of(server) != JOINED:
            print("not tested: OpenVINO's CPU plug-in does not run here:", plan_of(server))
            return
        body = {"prompt": MAT, "max_tokens": 4, "temperature": 0}
        equal(server.json("/v1/completions", body)["choices"][0]["text"], " sat on the mat")
        # Nothing runs: at once, before anybody asks.
        t.throttle(True)
        process.until(lambda: plan_of(server) == ALONE, "the plan without the device that throttles")
        wait_until_told(server, "igpu is throttled: thermal")
        wait_until_told(server, f"the plan is now {ALONE}: ")
        equal(server.json("/status")["executive"]["plan"], ALONE)
        contains(server.request("/metrics")[2], 'offering_phase_device{phase="prefill",min_tokens="0",device="cpu"')
        again = server.json("/v1/completions", body)
        equal(again["choices"][0]["text"], " sat on the mat", "the answer on the other plan")
        cached = again["usage"]["prompt_tokens_details"]["cached_tokens"]
        equal(cached, again["usage"]["prompt_tokens"] - 1, "tokens that stayed")
        # Under a running answer: later, and the answer's rows are not forwarded again.
        answer = Repetition(server)
        answer.more()
        forwarded = server.metric("offering_prefill_tokens_total")
        t.throttle(False)
        process.until(lambda: plan_of(server) == JOINED, "the plan with the device that is well again")
        equal(server.metric("offering_sequences_running"), 1, "the answer runs on")
        at = answer.tokens
        answer.more()
        print(f"     the plan changed after {at} tokens", flush=True)
        equal(server.metric("offering_prefill_tokens_total"), forwarded, "tokens forwarded in prefill")
        answer.leave()
        wait_until_told(server, f"the plan is now {JOINED}: ")
        equal(server.metric("offering_plan_changes_total"), 2)
        equal(server.metric("offering_worker_losses_total"), 0)
        equal(told(server, "measuring"), 0, server.log)


def a_device_joins_under_an_answer():
    """Its test takes the only slot: the answer's tokens are forwarded again, and it goes on."""
    with Throttling(1, True) as t, Server(t.session) as server:
        equal(plan_of(server), ALONE)
        answer = Repetition(server)
        answer.more()
        forwarded = server.metric("offering_prefill_tokens_total")
        t.throttle(False)
        process.until(lambda: plan_of(server) != ALONE, "another plan")
        if plan_of(server) != JOINED:
            print("not tested: OpenVINO's CPU plug-in does not run here:", plan_of(server))
            return
        answer.more()
        expect(server.metric("offering_prefill_tokens_total") - forwarded > 12, "forwarded again")
        answer.leave()


def a_plan_by_name_stays():
    with Throttling(1, False) as t:
        with Server(t.session, "--plan", JOINED) as server:
            if plan_of(server) != JOINED:
                print("not tested: OpenVINO's CPU plug-in does not run here:", plan_of(server))
                return
            t.throttle(True)
            process.until(lambda: told(server, "igpu is throttled"), "word of it")
            server.json("/v1/completions", {"prompt": MAT, "max_tokens": 1})
            equal(plan_of(server), JOINED)
            equal(server.metric("offering_plan_changes_total"), 0)


def main():
    for test in (the_plan_follows_conditions, a_device_joins_under_an_answer, a_plan_by_name_stays):
        test()
        print("ok  ", test.__name__, flush=True)
    for plan, apart in (("prefill=openvino:CPU,decode=cpu", True), ("cpu@0-12,openvino:CPU@12-", False)):
        with process.Session() as session:
            # Compiled graphs are kept: compiling is not what is tested.
            os.makedirs(CACHE, exist_ok=True)
            session.environment.update({"XDG_CACHE_HOME": CACHE, "OFFERING_CACHE_DIR": CACHE})
            with Server(session, "--context", "1024", "--slots", "4", "--plan", plan) as server:
                features(server)
                print("ok   features", plan, flush=True)
                at_once(server, apart)
                print("ok   at_once", plan, flush=True)
                for part in plan.split(","):
                    device = part.split("=")[-1].split("@")[0]
                    _, _, data = server.request("/metrics")
                    contains(data, f'device="{device}",layers=')
                if apart:
                    a_lost_worker(server)
                    print("ok   a_lost_worker", plan, flush=True)
    sys.exit(0)


main()

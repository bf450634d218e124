"""Where the sampler needs only the best logits, only they are handed over, and the tokens are those that whole
logits give: of `run`, and of the server, where log-probabilities or a bias that changes nothing ask for all."""
import os
import sys

from support import server_process, supervisor_process as process
from support.server_process import Server

server_process.require()
if not os.environ.get("OFFERING_BUILD_DIR"):
    process.skip("OFFERING_BUILD_DIR is not set")
CACHE = os.path.join(os.environ["OFFERING_BUILD_DIR"], "test_packages", "cache")
TOKENS = 12
# With prompts that have no beginning in common: what is reused would leave the prefill's device out.
CASES = (("Once upon a time, in a small village by the sea, there lived", {"temperature": 0}),
         ("The recipe needs three eggs, some flour and", {"temperature": 0.8, "top_k": 40, "seed": 7}),
         ("When the train arrived, nobody", {"temperature": 1.5, "top_k": 64, "top_p": 0.95, "min_p": 0.02, "seed": 8}))
# Of an answer, by plan and worker: rows of logits and of candidates that came from the device where candidates are
# enough, and where they are not. A prompt's last token is the first that is sampled.
# Where layers are split, the last part's device gives them all.
PLANS = {"cpu": {"cpu": ((TOKENS, 0), (TOKENS, 0))},
         "prefill=cpu,decode=opencl:0": {"cpu": ((1, 0), (1, 0)), "opencl:0": ((0, TOKENS - 1), (TOKENS - 1, 0))},
         "cpu@0-12,opencl:0@12-": {"cpu": ((0, 0), (0, 0)), "opencl:0": ((0, TOKENS), (TOKENS, 0))},
         "cpu@0-12,openvino:CPU@12-": {"cpu": ((0, 0), (0, 0)), "openvino:CPU": ((TOKENS, 0), (TOKENS, 0))}}
equal = process.equal


def cases(plan):
    """OpenVINO's backend cuts into chunks as it has measured them, and rounds as they are cut: only what is greedy, and
    no near-tie, is the same each time."""
    return CASES[:1] if "openvino" in plan else CASES


def rows(status):
    return {w["name"]: (w["logit_rows"], w["candidate_rows"]) for w in status["workers"]} if status else {}


def check_rows(expected, whole, before, after, what):
    for name, pairs in expected.items():
        old = before.get(name, (0, 0))
        equal(tuple(b - a for a, b in zip(old, after[name])), pairs[whole], f"rows of {name}, {what}")


def options(sampling):
    return [word for key, value in sampling.items() for word in ("--" + key, str(value))]


def in_the_terminal(session, plan):
    """The texts."""
    texts = []
    for prompt, sampling in cases(plan):
        before = rows(session.status())
        run = session.json("run", "--raw", "--prompt", prompt, "--max_tokens", str(TOKENS), "--ignore_eos",
                           "--plan", plan, *options(sampling))
        equal(run["generated_tokens"], TOKENS)
        check_rows(PLANS[plan], False, before, rows(session.status()), sampling)
        texts.append(run["text"])
    return texts


def a_probe_asks_for_one(server, plan):
    """Of the device that decodes, before any token was chosen."""
    device, pairs = list(PLANS[plan].items())[-1]
    before = rows(server.json("/status")["executive"])
    equal(server.json("/health"), {"status": "ok"})
    expected = {name: ((0, 0),) for name in PLANS[plan]}
    expected[device] = ((0, 1),) if pairs[0][1] else ((1, 0),)
    check_rows(expected, False, before, rows(server.json("/status")["executive"]), "of /health")


def in_the_server(server, plan, texts):
    body = {"max_tokens": TOKENS, "ignore_eos": True, "cache_prompt": False}
    for (prompt, sampling), text in zip(cases(plan), texts):
        others = ({"logit_bias": {"0": 0}}, True, True), ({"min_tokens": TOKENS}, True, False), (
            {"presence_penalty": 0.1}, True, False)
        for more, whole, same in (({}, False, True), ({"logprobs": 1}, True, True),
                                  *(others if sampling["temperature"] == 0 else ())):
            before = rows(server.json("/status")["executive"])
            choice = server.json("/v1/completions", {"prompt": prompt, **body, **sampling, **more})["choices"][0]
            if same:
                equal(choice["text"], text, f"{sampling} {more}")
            check_rows(PLANS[plan], whole, before, rows(server.json("/status")["executive"]), f"{sampling} {more}")


def main():
    for plan in PLANS:
        with process.Session() as session:
            os.makedirs(CACHE + "/pocl", exist_ok=True)  # kernels are kept: compiling is not what is tested
            session.environment.update({"XDG_CACHE_HOME": CACHE, "OFFERING_CACHE_DIR": CACHE,
                                        "POCL_CACHE_DIR": CACHE + "/pocl"})
            texts = in_the_terminal(session, plan)
            print("ok   in_the_terminal", plan, flush=True)
            with Server(session, "--plan", plan) as server:
                a_probe_asks_for_one(server, plan)
                in_the_server(server, plan, texts)
            print("ok   in_the_server", plan, flush=True)
    sys.exit(0)


main()

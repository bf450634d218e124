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
PROMPT = "Once upon a time, in a small village by the sea, there lived"
TOKENS = 16
SAMPLINGS = ({"temperature": 0}, {"temperature": 0.8, "top_k": 40, "seed": 7},
             {"temperature": 1.5, "top_k": 64, "top_p": 0.95, "min_p": 0.02, "seed": 8})
# plan, the worker whose logits are sampled, whether its device chooses the candidates
PLANS = (("cpu", "cpu", False),)
equal = process.equal


def rows(status, name):
    worker = next(w for w in status["workers"] if w["name"] == name)
    return worker["logit_rows"], worker["candidate_rows"]


def options(sampling):
    return [word for key, value in sampling.items() for word in ("--" + key, str(value))]


def in_the_terminal(session, plan, name, chooses):
    """The texts, and what they cost."""
    texts = []
    for sampling in SAMPLINGS:
        before = rows(session.status(), name) if texts else (0, 0)
        run = session.json("run", "--raw", "--prompt", PROMPT, "--max_tokens", str(TOKENS), "--ignore_eos",
                           "--plan", plan, *options(sampling))
        equal(run["generated_tokens"], TOKENS)
        logits, candidates = (b - a for a, b in zip(before, rows(session.status(), name)))
        equal((logits, candidates), (0, TOKENS) if chooses else (TOKENS, 0), f"rows, {sampling}")
        texts.append(run["text"])
    equal(len(set(texts)), len(texts), "samplings that differ")
    return texts


def in_the_server(server, name, chooses, texts):
    body = {"prompt": PROMPT, "max_tokens": TOKENS, "ignore_eos": True, "cache_prompt": False}
    for sampling, text in zip(SAMPLINGS, texts):
        for more, whole, same in (({}, False, True), ({"logprobs": 1}, True, True),
                                  ({"logit_bias": {"0": 0}}, True, True), ({"min_tokens": TOKENS}, True, False),
                                  ({"presence_penalty": 0.1}, True, False)):
            before = rows(server.json("/status")["executive"], name)
            choice = server.json("/v1/completions", {**body, **sampling, **more})["choices"][0]
            if same:
                equal(choice["text"], text, f"{sampling} {more}")
            logits, candidates = (b - a for a, b in zip(before, rows(server.json("/status")["executive"], name)))
            equal((logits, candidates), (0, TOKENS) if chooses and not whole else (TOKENS, 0),
                  f"rows, {sampling} {more}")


def main():
    for plan, name, chooses in PLANS:
        with process.Session() as session:
            os.makedirs(CACHE + "/pocl", exist_ok=True)  # kernels are kept: compiling is not what is tested
            session.environment.update({"XDG_CACHE_HOME": CACHE, "OFFERING_CACHE_DIR": CACHE,
                                        "POCL_CACHE_DIR": CACHE + "/pocl"})
            texts = in_the_terminal(session, plan, name, chooses)
            print("ok   in_the_terminal", plan, flush=True)
            with Server(session, "--plan", plan) as server:
                in_the_server(server, name, chooses, texts)
            print("ok   in_the_server", plan, flush=True)
    sys.exit(0)


main()

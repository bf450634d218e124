"""A package in OpenVINO GenAI, a peer that knows nothing of ours: LLMPipeline loads the directory (openvino_model.xml,
openvino_model.bin, config.json), and its greedy tokens are ours, but for near-ties of the fp32 reference; also from
text to text, through the package's tokenizer graphs and chat template."""
import json
import os
import subprocess
import sys

from support import bake, supervisor_process as process
from support.bake import expect
import numpy as np

PACKAGE = os.environ.get("OFFERING_TEST_PACKAGE", "")
FORWARD = os.path.join(os.environ["OFFERING_BUILD_DIR"], "tests", "tools", "forward_tool")
PROMPTS = [
    [504, 3575, 282, 4649, 314, 260, 2240, 282, 260, 905, 30, 657, 314, 253, 1123, 3240, 28, 284, 357, 506, 1719, 411],
    [504, 3575, 282, 4649, 314],
    [657, 314, 253, 1123, 3240, 28, 284],
]
N_NEW = 12
# The peer quantizes activations and its KV cache to INT8; with f32 for both it would be 1e-3.
NEAR_TIE = 0.5
QUESTIONS = ("What is the capital of France?", "Name three colours: \u00e9t\u00e9, \u6d77, 12345\u2026", "Write a haiku about rain.")


def reference(ids):
    out = subprocess.run([FORWARD, "logits", PACKAGE], check=True, stdout=subprocess.PIPE,
                         input=" ".join(map(str, ids)).encode()).stdout
    return np.frombuffer(out, np.float32).reshape(len(ids), -1)


def check(pipeline, attention, prompt, ov, genai):
    config = genai.GenerationConfig()
    config.max_new_tokens, config.ignore_eos, config.do_sample = N_NEW, True, False
    ids = np.array([prompt], np.int64)
    tokens = pipeline.generate(genai.TokenizedInputs(ov.Tensor(ids), ov.Tensor(np.ones_like(ids))), config).tokens[0]
    expect(len(tokens) == N_NEW, tokens)
    logits = reference(prompt + list(tokens))
    margins = [float(logits[len(prompt) + i - 1].max() - logits[len(prompt) + i - 1][token])
               for i, token in enumerate(tokens)]
    equal = sum(m == 0 for m in margins)
    print("%s: %d of %d tokens are the reference's best, largest margin %.3f" % (attention, equal, N_NEW, max(margins)))
    expect(max(margins) < NEAR_TIE, attention, prompt, list(tokens), margins)
    return equal


def check_text(pipeline, session, question):
    """The peer is given text and gives text; what ours says to the same, but for a near-tie."""
    tokenizer = pipeline.get_tokenizer()
    ours = session.json("run", "--prompt", question, "--max_tokens", str(N_NEW), "--temperature", "0", "--ignore_eos")
    messages = session.write("messages.json", json.dumps([{"role": "user", "content": question}]))
    prompt = session.run("render", "--messages", messages).stdout.decode()
    expect(tokenizer.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True) == prompt,
           prompt)
    prompt_ids = [int(i) for i in tokenizer.encode(prompt).input_ids.data[0]]
    expect(prompt_ids == json.loads(session.run("tokenize", "--text", prompt, "--json").stdout)["ids"], prompt_ids)
    text = str(pipeline.generate(question, max_new_tokens=N_NEW, ignore_eos=True, do_sample=False))
    if text == ours["text"]:
        print("text: %r" % text)
        return
    logits = reference(prompt_ids + ours["ids"])
    for step, token in enumerate(ours["ids"]):
        theirs = logits[len(prompt_ids) + step - 1].argsort()[-5:][::-1]
        agrees = [t for t in theirs if text.startswith(tokenizer.decode(ours["ids"][:step] + [int(t)]))]
        if token not in agrees:
            row = logits[len(prompt_ids) + step - 1]
            expect(agrees and row[token] - row[agrees[0]] < NEAR_TIE, question, step, text, ours["text"])
            print("text: a near-tie at step %d: %r or %r" % (step, text, ours["text"]))
            return
    expect(False, "the ids are of one text, the texts are not", text, ours["text"])


def main():
    try:
        import openvino as ov
        import openvino_genai as genai
    except ImportError as error:
        bake.skip("the peer is not installed: %s" % error)
    if not os.path.exists(os.path.join(PACKAGE, "openvino_model.xml")):
        bake.skip("no reference package")
    with open(os.path.join(PACKAGE, "generation_config.json")) as f:
        expect(json.load(f)["eos_token_id"], "no token ends a text")
    exact = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0, "KV_CACHE_PRECISION": "f32"}
    for attention in ("SDPA", "PA"):
        pipeline = genai.LLMPipeline(PACKAGE, "CPU", ATTENTION_BACKEND=attention, INFERENCE_NUM_THREADS=2, **exact)
        equal = sum(check(pipeline, attention, prompt, ov, genai) for prompt in PROMPTS)
        expect(equal >= N_NEW * len(PROMPTS) - 1, attention, equal)
        if attention == "SDPA":
            with process.Session() as session:
                for question in QUESTIONS:
                    check_text(pipeline, session, question)
        del pipeline


if __name__ == "__main__":
    main()
    sys.stdout.flush()

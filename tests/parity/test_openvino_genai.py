"""A package in OpenVINO GenAI, a peer that knows nothing of ours: LLMPipeline loads the directory (openvino_model.xml,
openvino_model.bin, config.json), and its greedy tokens are ours, but for near-ties of the fp32 reference."""
import json
import os
import subprocess
import sys

from support import bake
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
        del pipeline


if __name__ == "__main__":
    main()
    sys.stdout.flush()

"""The fp32 reference against a peer: greedy continuations of ten prompts by OpenVINO GenAI on the
same GGUF, source weights on both sides. They agree, or part at a near-tie of the reference.

Both read the source with its matrices converted to F16: OpenVINO GenAI 2026.4 reads the Q4_1
original differently from what the format says (an independent forward pass in numpy over the original
gives our logits, and a perplexity seven times lower than with Q and K rows left in pairs)."""
import json
import os
import subprocess
import sys
import tempfile

TOOLS = os.path.join(os.environ["OFFERING_BUILD_DIR"], "tests", "tools")
PACKAGE = os.environ.get("OFFERING_TEST_PACKAGE", "")
GGUF = os.environ.get("OFFERING_TEST_GGUF", "")
TOKENS = 32
# Sums in another order, and the peer's F16 K and V, move a logit by a few hundredths at most.
NEAR_TIE = 0.1

PROMPTS = [
    "The capital of France is",
    "Water boils at a temperature of",
    "Once upon a time, in a small village by the sea,",
    "def fibonacci(n):\n    ",
    "The three primary colours are",
    "To make a cup of tea, first",
    "In 1969, Neil Armstrong became",
    "The largest planet of the solar system is",
    "Dear Sir or Madam,\n\nI am writing to",
    "A prime number is a number that",
]


def tool(name, *arguments, stdin):
    return subprocess.run([os.path.join(TOOLS, name), *arguments], input=stdin, text=True,
                          stdout=subprocess.PIPE, check=True).stdout


def main():
    try:
        import openvino
        import openvino_genai
        from support import gguf_f16
    except ImportError as error:
        print("skipped: the peer is not installed:", error)
        sys.exit(77)
    if not GGUF or not os.path.exists(os.path.join(PACKAGE, "tokenizer.bin")):
        print("skipped: no reference GGUF or no package baked from it")
        sys.exit(77)

    lines = tool("tokenizer_tool", "encode", os.path.join(PACKAGE, "tokenizer.bin"),
                 stdin="".join(p.encode().hex() + "\n" for p in PROMPTS)).splitlines()
    prompts = [[int(i) for i in line.split()] for line in lines]
    assert len(prompts) == len(PROMPTS), lines
    with tempfile.TemporaryDirectory() as directory:
        source = os.path.join(directory, "source_f16.gguf")
        gguf_f16.write(GGUF, source)
        sys.exit(1 if compare(openvino, openvino_genai, source, lines, prompts) else 0)


def compare(openvino, openvino_genai, source, lines, prompts):
    """How many continuations differ at no tie."""
    ours = json.loads(tool("forward_tool", "generate", source, str(TOKENS), "2",
                           stdin="\n".join(lines) + "\n"))

    peer = openvino_genai.LLMPipeline(source, "CPU", INFERENCE_PRECISION_HINT="f32",
                                      DYNAMIC_QUANTIZATION_GROUP_SIZE=0, KV_CACHE_PRECISION="f32")
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens = TOKENS
    config.do_sample = False
    config.ignore_eos = True
    parted = failed = 0
    for text, prompt, own in zip(PROMPTS, prompts, ours):
        inputs = openvino_genai.TokenizedInputs(
            to_tensor(openvino, prompt),
            to_tensor(openvino, [1] * len(prompt)))
        theirs = list(peer.generate(inputs, config).tokens[0])
        ids = [step["id"] for step in own["steps"]]
        margins = [step["margin"] for step in own["steps"]]
        assert len(ids) == TOKENS and len(theirs) == TOKENS, (len(ids), len(theirs))
        first = next((i for i in range(TOKENS) if ids[i] != theirs[i]), None)
        if first is None:
            print(f"same    {text!r}")
            continue
        parted += 1
        near = margins[first] < NEAR_TIE
        failed += not near
        print(f"{'tie' if near else 'DIFFERS'}     {text!r}: step {first}, "
              f"margin {margins[first]:.4f}")
    print(f"{len(PROMPTS) - parted} of {len(PROMPTS)} the same, {parted} part, "
          f"{failed} of those at no tie")
    return failed


def to_tensor(openvino, values):
    import numpy
    return openvino.Tensor(numpy.array([values], dtype=numpy.int64))


main()

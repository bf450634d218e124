#!/usr/bin/env python3
"""What a bake of a 7B model costs: memory, disk and time, beside dd reading the source and writing the output.

  venv_offering/bin/python3 bench/measure_bake.py WORK_DIRECTORY [--shape mistral-7b] [--layers N] [--hub] [--answer]

Writes a random checkpoint of that shape into the directory (once), drops the page cache (as root), times dd, then
bakes: from the directory, or with --hub from a hub on loopback. --answer: then `supervisor run` answers from the
package, first as it is called first, then again. One JSON object on stdout."""
import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BIN = os.environ.setdefault("OFFERING_BIN_DIR", os.path.join(ROOT, "build/release/bin"))
sys.path.insert(0, os.path.join(ROOT, "tests"))
from support import hub_server  # noqa: E402
from support.disk import Watch, disk_bytes  # noqa: E402
from support.supervisor_process import Session  # noqa: E402

ID = "random/model"
BAKE_MODEL = os.path.join(BIN, "bake_model")


def drop_caches():
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as f:
        f.write("3")


def seconds(command):
    begin = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - begin


def bake(arguments, environment, work):
    """(report of bake_model, wall seconds, most disk bytes below the directory)"""
    scratch = os.path.join(work, "bake")
    os.makedirs(os.path.join(scratch, "tmp"))
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    process = subprocess.Popen([*arguments, "--output", os.path.join(scratch, "package"), "--json", "--data_free"],
                               env={**environment, "TMPDIR": os.path.join(scratch, "tmp")},
                               stdout=subprocess.PIPE, stderr=sys.stderr, text=True)
    with Watch(scratch, 0.5) as watch:
        out = process.communicate()[0]
        wall = time.monotonic() - begin
    if process.returncode:
        sys.exit("measure_bake: bake_model failed")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    report = json.loads(out)
    report["cpu_seconds"] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return report, wall, max(watch.most, disk_bytes(scratch))


def peak_rss(pid):
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM:"))


def answer(package):
    """What `supervisor run` says and takes, with no executive running and with the one it began."""
    result = {}
    with Session() as session:
        for run in ("first", "second"):
            begin = time.monotonic()
            done = subprocess.run([os.path.join(BIN, "supervisor"), "run", "--model", package, "--prompt",
                                   "Two and two?", "--system", "Be brief.", "--max_tokens", "16", "--json"],
                                  env=session.environment, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit("measure_bake: supervisor run: " + done.stderr)
            said = json.loads(done.stdout)
            result[run] = {"wall_seconds": round(time.monotonic() - begin, 2),
                           **{k: said[k] for k in ("prompt_tokens", "generated_tokens", "prefill_tok_s",
                                                   "decode_tok_s", "plan", "device", "ids")}}
        result["peak_rss_bytes"] = max(map(peak_rss, session.processes("executive_shard")), default=0)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work")
    parser.add_argument("--shape", default="mistral-7b")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--hub", action="store_true")
    parser.add_argument("--answer", action="store_true")
    args = parser.parse_args()
    source = os.path.join(args.work, "source")
    if not os.path.exists(source):
        os.makedirs(args.work, exist_ok=True)
        subprocess.run([sys.executable, os.path.join(ROOT, "bench/make_random_model.py"), "--format", "safetensors",
                        "--shape", args.shape, *(["--layers", str(args.layers)] if args.layers else []), source],
                       check=True)
    shards = sorted(os.path.join(source, name) for name in os.listdir(source) if name.endswith(".safetensors"))
    drop_caches()
    read = sum(seconds(["dd", "if=" + path, "of=/dev/null", "bs=4M"]) for path in shards)
    drop_caches()
    shutil.rmtree(os.path.join(args.work, "bake"), ignore_errors=True)
    if args.hub:
        files = {name: os.path.join(source, name) for name in os.listdir(source)}
        with hub_server.Hub({ID: files}) as hub:
            for path in shards:  # the real hub knows its checksums
                hub.digest(hub_server.File(path))
            drop_caches()
            report, wall, most = bake([BAKE_MODEL, "--model_id", ID], hub.environment(), args.work)
    else:
        report, wall, most = bake([BAKE_MODEL, "--model_dir", source], dict(os.environ), args.work)
    package = os.path.join(args.work, "bake", "package")
    output = disk_bytes(package)
    answered = {"answer": answer(package)} if args.answer else {}
    shutil.rmtree(os.path.join(args.work, "bake"))
    zero = os.path.join(args.work, "zero")
    write = seconds(["dd", "if=/dev/zero", "of=" + zero, "bs=4M", "count=%d" % (output >> 22), "conv=fdatasync"])
    os.remove(zero)
    print(json.dumps({
        "source": "hub" if args.hub else "directory", "source_bytes": sum(os.path.getsize(p) for p in shards),
        "output_bytes": output, "scratch_bytes": most - output, "peak_rss_bytes": report["peak_rss_bytes"],
        "bake_seconds": round(wall, 1), "cpu_seconds": round(report["cpu_seconds"], 1), "dd_read_seconds": round(read, 1), "dd_write_seconds": round(write, 1),
        "ratio_to_dd": round(wall / (read + write), 2), **answered}))


if __name__ == "__main__":
    main()

"""The plan: what is decided for machines described in files, what is measured on this one, kept and
used, and what 'supervisor plan' says of it all."""
import json
import os
import shutil

from support.planned import PlannedSession
from support.supervisor_process import Session, contains, equal, require, run_tests

require()

PROFILES = os.path.join(os.environ["OFFERING_SOURCE_DIR"], "data", "device_profiles")
NAMES = ["meteor_lake", "arrow_lake_h", "lunar_lake", "panther_lake"]


def read(name):
    with open(os.path.join(PROFILES, name + ".json")) as file:
        return json.load(file)


def device(profile, name):
    return next(d for d in profile["devices"] if d["name"] == name)


def decide(session, profile, *more):
    path = session.write("profile.json", json.dumps(profile))
    return session.json("plan", "--profile", path, *more, model=False)


def chosen(report, tokens):
    """(prefill, decode) at a length, which must be one candidate."""
    found = [c for c in report["candidates"] if c["prompt_tokens"] == tokens and c["chosen"]]
    equal(len(found), 1)
    return found[0]["prefill"], found[0]["decode"]


def every_figure_has_a_source():
    for name in NAMES:
        profile = read(name)
        equal(profile["kind"], "published")
        contains(profile["about"], "not measured")
        for d in profile["devices"]:
            assert d["int8_tops_source"] and d["hop_us_source"], (name, d["name"])
            for point in d["prefill"] + d["decode"]:
                assert "http" in point["source"] or point["source"].startswith("derived"), point


def strong_gpus_need_no_npu():
    with Session() as s:
        for name in NAMES[1:]:
            profile = read(name)
            report = decide(s, profile)
            equal(report["plan"], "prefill=openvino:GPU,decode=openvino:GPU", name)
            device(profile, "openvino:GPU")["busy"] = 0.8
            busy = decide(s, profile)
            equal(chosen(busy, 1024)[0], "openvino:NPU", name)
            contains(busy["reason"], "others use it 80 % of the time")


def meteor_lake_needs_its_npu():
    with Session() as s:
        profile = read("meteor_lake")
        report = decide(s, profile)
        for tokens in (64, 256, 1024, 2048):
            equal(chosen(report, tokens), ("openvino:NPU", "openvino:GPU"))
        device(profile, "openvino:NPU").update(slowdown=1.5, condition="97 C")
        throttled = decide(s, profile)
        equal(chosen(throttled, 1024), ("openvino:GPU", "openvino:GPU"))
        contains(throttled["reason"], "openvino:NPU counts as 1.5 times slower: 97 C")
        device(profile, "openvino:NPU")["failure"] = "its logits are wrong"
        equal(decide(s, profile)["refused"],
              [{"device": "openvino:NPU", "reason": "its logits are wrong"}])


def a_gpu_too_small_gets_some_layers():
    with Session() as s:
        profile = read("arrow_lake_h")
        gpu = device(profile, "openvino:GPU")
        gpu.update(name="opencl:1", memory_bytes=3_000_000_000, copy_gb_s=12)
        for point in gpu["prefill"] + gpu["decode"]:
            point["ms"] /= 4
        report = decide(s, profile)
        contains(report["plan"], "decode=opencl:1@0-")
        contains(report["plan"], ",cpu@")
        contains(report["refused"][0]["reason"], "of the 32 layers: never the whole model")


def the_table_says_all():
    with Session() as s:
        path = os.path.join(PROFILES, "meteor_lake.json")
        text = s.run("plan", "--why", "--profile", path, model=False).stdout.decode()
        for part in ("machine: Meteor Lake", "plan: prefill=openvino:GPU,prefill[",
                     "reason: openvino:NPU prefills and openvino:GPU decodes", "not measured",
                     "2995.5", "best single device", "chosen"):
            contains(text, part)
        short = s.run("plan", "--profile", path, model=False).stdout.decode().splitlines()
        equal(len(short), 2)
        report = s.json("plan", "--profile", path, model=False)
        for c in report["candidates"]:
            total = c["first_token_ms"] + c["handoff_ms"] + 128 * c["per_token_ms"]
            assert abs(total - c["total_ms"]) < 1e-3 * total, c
        # No choice is slower than the best single device.
        for c in report["candidates"]:
            if c["chosen"]:
                single = next(b for b in report["candidates"] if b["best_single"] and
                              b["prompt_tokens"] == c["prompt_tokens"])
                assert c["total_ms"] <= single["total_ms"], (c, single)


def bad_profiles_are_refused():
    with Session() as s:
        def fails(content, *parts):
            done = s.run("plan", "--profile", s.write("bad.json", content), model=False, code=1)
            for part in parts:
                contains(done.stderr, part)
        fails("", "bad.json")
        fails("[]", "bad.json: no JSON object")
        fails("{", "bad.json: line 1")
        profile = read("meteor_lake")
        profile["devices"][0]["prefill"][1]["ms"] = -1
        fails(json.dumps(profile), "device 1: prefill, point 2: 'ms'")
        profile["devices"][0]["prefill"][1]["ms"] = 0
        fails(json.dumps(profile), "openvino:NPU")
        contains(s.run("plan", "--profile", s.path("none"), model=False, code=1).stderr, "none")
        contains(s.run("plan", "--profile", "a", "--measure", model=False, code=2).stderr,
                 "exclude")


RUN = ["run", "--prompt", "What is the capital of France?", "--max_tokens", "8"]


def a_cpu_alone_is_not_measured():
    with PlannedSession() as s:
        done = s.run(*RUN, "--json")
        equal(json.loads(done.stdout)["plan"], "prefill=cpu,decode=cpu")
        assert b"measuring" not in done.stderr, done.stderr
        path, figures = s.figures()
        equal([d["name"] for d in figures["devices"]], ["cpu"])
        equal(figures["devices"][0]["prefill"], [])
        report = s.json("plan")
        equal(report["path"], path)
        equal(report["devices_present"], ["cpu"])
        contains(report["reason"], "only device")
        contains(s.run("plan", "--why").stdout, "the CPU is the only device")


def opencl_on_the_cpu_is_not_measured():
    """Present, but the same cores: only where somebody asks for it."""
    with PlannedSession() as s:
        del s.environment["OCL_ICD_VENDORS"]
        done = s.run("plan", "--json")
        report = json.loads(done.stdout)
        present = {d["name"]: d for d in report["figures"]["devices"]}
        if "opencl:0" not in present or present["opencl:0"]["kind"] != "cpu":
            print("not tested: no OpenCL on the CPU here:", list(present))
            return
        assert b"measuring" not in done.stderr, done.stderr
        equal(report["plan"], "prefill=cpu,decode=cpu")
        contains(report["reason"], "under other names")
        contains(present["opencl:0"]["failure"], "not measured: OpenCL on the CPU")
        contains(s.run("plan", "--why").stdout, "'--plan opencl:0' uses it")
        equal(s.json("plan")["path"], report["path"])


def measured_when_asked_and_kept():
    with PlannedSession() as s:
        done = s.run("plan", "--measure", "--seconds", "2", "--json")
        contains(done.stderr, "measuring cpu")
        contains(done.stderr, "cpu: reads prompts at")
        report = json.loads(done.stdout)
        equal(report["measured_now"], True)
        equal(report["plan"], "prefill=cpu,decode=cpu")
        cpu = report["figures"]["devices"][0]
        assert len(cpu["prefill"]) >= 2 and len(cpu["decode"]) >= 1, cpu
        assert all(p["ms"] > 0 for p in cpu["prefill"] + cpu["decode"]), cpu
        path, saved = s.figures()
        equal(saved["devices"], report["figures"]["devices"])
        again = s.json("plan")
        equal((again["measured_now"], again["path"]), (False, path))
        equal(again["figures"]["date"], saved["date"])
        why = s.run("plan", "--why").stdout.decode()
        for part in ("Measured " + saved["date"], "best single device", path, "--measure"):
            contains(why, part)
        # A file that is damaged, or of another machine, is told and replaced.
        for damage in ("{", json.dumps(dict(saved, key="0" * 64)),
                       json.dumps(dict(saved, devices=[]))):
            with open(path, "w") as file:
                file.write(damage)
            done = s.run("plan", "--json")
            contains(done.stderr, os.path.basename(path))
            equal(json.loads(done.stdout)["plan"], "prefill=cpu,decode=cpu")
            equal(s.figures()[1]["key"], saved["key"])
        # Where the package takes no file, the state directory does.
        shutil.rmtree(os.path.dirname(path))
        with open(os.path.dirname(path), "w"):
            pass
        report = s.json("plan")
        contains(report["path"], s.state)
        assert os.path.exists(report["path"]), report["path"]


def another_driver_is_another_machine():
    with PlannedSession() as s:
        s.run("plan")
        before = s.figures()[0]
        with open(s.path("no_openvino.so"), "w") as file:
            file.write("no library")
        s.run("plan")
        equal(len(os.listdir(os.path.dirname(before))), 2)


def combinations_are_used():
    with PlannedSession() as s:
        s.write_figures()
        asked = s.json(*RUN, "--plan", "prefill=openvino:CPU,decode=cpu")
        if asked["plan"] != "prefill=openvino:CPU,decode=cpu":
            print("not tested: OpenVINO's CPU plug-in does not run here:", asked["plan"])
            return
        r = s.json(*RUN)
        equal(r["plan"], "prefill=openvino:CPU,decode=cpu")
        equal(r["text"], asked["text"])
        contains(s.run("plan", "--why").stdout, "openvino:CPU prefills and cpu decodes")
        # What names one phase is asked for; the other one is chosen.
        equal(s.json(*RUN, "--plan", "decode=openvino:CPU")["plan"],
              "prefill=openvino:CPU,decode=openvino:CPU")
        equal(s.json(*RUN, "--plan", "prefill=cpu")["plan"], "prefill=cpu,decode=cpu")


run_tests([every_figure_has_a_source, strong_gpus_need_no_npu, meteor_lake_needs_its_npu,
           a_gpu_too_small_gets_some_layers, the_table_says_all, bad_profiles_are_refused,
           a_cpu_alone_is_not_measured, opencl_on_the_cpu_is_not_measured, measured_when_asked_and_kept,
           another_driver_is_another_machine, combinations_are_used])

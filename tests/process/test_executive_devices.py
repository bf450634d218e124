"""executive_shard devices against described machines, through the real Level Zero loader."""
import ctypes.util
import json
import os
import subprocess

from support import machines
from support import supervisor_process as process

EXECUTIVE = process.EXECUTIVE
if not os.path.exists(machines.DRIVERS["gpu"]) or not os.path.exists(EXECUTIVE):
    process.skip("the fake Level Zero driver or executive_shard is not built")

# The system's loader; test_executive_devices_newest.py says "newest": what
# tests/support/newest_ze_loader.sh has fetched.
if os.environ.get("OFFERING_TEST_ZE_LOADER") == "newest":
    LOADERS = machines.newest_loaders()
else:
    LOADERS = [None] if ctypes.util.find_library("ze_loader") else []
if not LOADERS:
    process.skip("no such Level Zero loader is installed")


def command(loader, *arguments):
    """The program under a loader: the system's, or a newer one with the C library it needs."""
    program = [EXECUTIVE, *arguments]
    if loader and os.path.exists(os.path.join(loader, "ld-linux-x86-64.so.2")):
        return [os.path.join(loader, "ld-linux-x86-64.so.2"), "--library-path", loader, *program]
    return program


def devices(machine, loader=None, **more):
    more = dict(more)
    if loader:
        more["LD_LIBRARY_PATH"] = loader
    run = subprocess.run(command(loader, "devices", "--json", "--root", machine.root),
                         env=machine.environment(**more), capture_output=True, text=True,
                         timeout=120, check=False)
    assert run.returncode == 0, (run.returncode, run.stdout, run.stderr)
    answer = json.loads(run.stdout)
    return {d["name"]: d for d in answer["devices"]}, answer["sources"]


def a_meteor_lake():
    for loader in LOADERS:
        with machines.meteor_lake() as machine:
            found, sources = devices(machine, loader)
            ze = sources["level_zero"]
            assert ze["state"] == "ok" and ze["devices"] == 2, ze
            assert ze["version"].startswith("1."), ze
            assert set(found) == {"cpu", "npu", "igpu"}, list(found)
            npu, gpu = found["npu"], found["igpu"]
            assert npu["model"] == "Intel(R) AI Boost", npu
            assert npu["pci"] == "0000:00:0b.0" and npu["ids"] == "8086:7d1d", npu
            assert npu["kernel_driver"] == "intel_vpu" and npu["node"] == "/dev/accel/accel0", npu
            assert npu["driver_version"] == "1.24.0" and npu["max_mhz"] == 1400, npu
            assert gpu["model"] == "Intel(R) Arc(TM) Graphics", gpu
            assert gpu["driver_version"] == "1.3.29735" and gpu["max_mhz"] == 2250, gpu
            assert gpu["kernel_driver"] == "i915" and gpu["node"] == "/dev/dri/renderD128", gpu
            assert (gpu["compute_engines"], gpu["copy_engines"]) == (1, 1), gpu
            assert found["cpu"]["model"] == "Intel(R) Core(TM) Ultra 7 155H", found["cpu"]
            assert found["cpu"]["max_mhz"] == 4800 and found["cpu"]["min_mhz"] == 400, found["cpu"]
            print("     Level Zero loader", ze["version"])


def an_arrow_lake_h():
    with machines.arrow_lake_h() as machine:
        found, _ = devices(machine, LOADERS[-1])
        assert set(found) == {"cpu", "npu", "igpu"}, list(found)
        assert found["npu"]["ids"] == "8086:ad1d" and found["igpu"]["kernel_driver"] == "xe", found


def a_lunar_lake_with_a_discrete_card():
    for loader in LOADERS:
        with machines.lunar_lake_with_arc() as machine:
            found, _ = devices(machine, loader)
            assert set(found) == {"cpu", "npu", "igpu", "dgpu"}, list(found)
            assert found["dgpu"]["memory_bytes"] == 16225243136, found["dgpu"]
            assert found["dgpu"]["kind"] == "discrete_gpu" and found["igpu"]["memory_bytes"] == 0
            assert found["dgpu"]["node"] == "/dev/dri/renderD129", found["dgpu"]


def an_old_gpu_only():
    with machines.old_gpu() as machine:
        found, sources = devices(machine, LOADERS[-1])
        assert set(found) == {"cpu", "igpu"}, list(found)
        assert sources["level_zero"]["devices"] == 1, sources


def a_driver_that_fails():
    for loader in LOADERS:
        with machines.meteor_lake() as machine:
            machine.ze = machine.ze.replace("driver gpu\n", "driver gpu\ninit error\n").replace(
                "driver npu\n", "driver npu\ninit error\n")
            found, sources = devices(machine, loader)
            assert sources["level_zero"]["state"] == "failed", sources
            assert set(found) == {"cpu", "npu", "igpu"}, "the kernel still knows them"
            assert found["npu"]["driver_version"] == "", found["npu"]


def a_driver_that_crashes():
    for loader in LOADERS:
        for where in ("init crash", "enumerate crash"):
            with machines.meteor_lake() as machine:
                machine.ze = machine.ze.replace("driver npu\n", f"driver npu\n{where}\n")
                found, sources = devices(machine, loader)
                ze = sources["level_zero"]
                assert ze["state"] == "crashed" and "SIGSEGV" in ze["text"], ze
                assert "ze" in ze["text"].split("in: ")[1], ze
                assert set(found) == {"cpu", "npu", "igpu"}, list(found)


def without_a_loader():
    with machines.meteor_lake() as machine, machines.Machine() as libraries:
        libraries.file("/libze_loader.so.1", "not a library")
        _, sources = devices(machine, LD_LIBRARY_PATH=libraries.root)
        assert sources["level_zero"]["state"] == "absent", sources


def a_new_npu_driver_under_an_old_loader():
    """Debian 12's loader looks for libze_intel_vpu.so.1 only."""
    with machines.meteor_lake() as machine, machines.Machine() as libraries:
        for name in ("gpu", "npu"):
            libraries.link(f"/libze_intel_{name}.so.1", machines.DRIVERS[name])
        environment = machine.environment(LD_LIBRARY_PATH=libraries.root)
        del environment["ZE_ENABLE_ALT_DRIVERS"]
        run = subprocess.run(command(None, "devices", "--json", "--root", machine.root),
                             env=environment, capture_output=True, text=True, timeout=120,
                             check=True)
        answer = json.loads(run.stdout)
        assert answer["sources"]["level_zero"]["devices"] == 2, answer["sources"]


def a_table_for_people():
    with machines.lunar_lake_with_arc() as machine:
        run = subprocess.run(command(None, "devices", "--root", machine.root),
                             env=machine.environment(), capture_output=True, text=True,
                             timeout=120, check=True)
        lines = run.stdout.splitlines()
        assert lines[0].split()[:3] == ["name", "kind", "model"], lines
        assert [line.split()[0] for line in lines[1:5]] == ["cpu", "npu", "igpu", "dgpu"], lines
        assert "15.1 GiB" in lines[4], lines[4]


def temperatures_and_power_are_followed():
    """The unit test of telemetry (sysman) under the loader that is not the system's."""
    program = os.path.join(machines.BUILD, "tests", "unit", "device_test_telemetry")
    loader = os.path.join(LOADERS[-1], "ld-linux-x86-64.so.2")
    run = subprocess.run([loader, "--library-path", LOADERS[-1], program], capture_output=True,
                         text=True, timeout=300, check=False)
    assert run.returncode == 0 and "SKIPPED" not in run.stdout + run.stderr, run


TESTS = [a_meteor_lake, an_arrow_lake_h, a_lunar_lake_with_a_discrete_card, an_old_gpu_only,
         a_driver_that_fails, a_driver_that_crashes]
if LOADERS == [None]:
    TESTS += [without_a_loader, a_new_npu_driver_under_an_old_loader, a_table_for_people]
else:
    TESTS += [temperatures_and_power_are_followed]
process.run_tests(TESTS)

"""executive_shard doctor against described machines: each finding from the files that show it."""
import hashlib
import json
import os
import re
import shutil
import subprocess
import time

from support import machines
from support import supervisor_process as process

if not os.path.exists(process.EXECUTIVE):
    process.skip("executive_shard is not built")
LIB = "/usr/lib/x86_64-linux-gnu"
KERNEL = "6.11.0-26-generic"
CODES = {"ok": 0, "broken": 1, "degraded": 3}


def healthy(make=machines.meteor_lake):
    """A machine with everything installed."""
    m = make()
    m.file(f"/lib/modules/{KERNEL}/kernel/drivers/accel/ivpu/intel_vpu.ko.zst")
    for name in ("vpu_37xx_v0.0.bin", "vpu_40xx_v0.0.bin", "vpu_50xx_v1.bin"):
        m.file(f"/lib/firmware/intel/vpu/{name}.zst")
    for name, version in (("libze_loader.so.1", "1.24.2"), ("libze_intel_gpu.so.1", "1.6.34666"),
                          ("libze_intel_npu.so.1", "1.24.0"), ("libOpenCL.so.1", "1.0.0")):
        m.file(f"{LIB}/{name[:-2]}.{version}")
        m.link(f"{LIB}/{name}", f"{name[:-2]}.{version}")
    m.file(f"{LIB}/libnpu_driver_compiler.so")
    m.file("/etc/OpenCL/vendors/intel.icd", "libigdrcl.so\n")
    packages(m, npu="1.24.0.20251003", compiler="1.24.0.20251003")
    m.file("/sys/firmware/acpi/platform_profile", "balanced\n")
    m.file("/sys/class/power_supply/AC/type", "Mains\n")
    m.file("/sys/class/power_supply/AC/online", "1\n")
    return m


def packages(m, npu=None, compiler=None, firmware=None):
    text = "Package: libc6\nStatus: install ok installed\nVersion: 2.39\n\n"
    for name, version in (("intel-level-zero-npu", npu), ("intel-driver-compiler-npu", compiler),
                          ("intel-fw-npu", firmware)):
        if version:
            text += f"Package: {name}\nStatus: install ok installed\nVersion: {version}\n\n"
    # A package that was removed is none.
    text += "Package: intel-level-zero-gpu\nStatus: deinstall ok config-files\nVersion: 1.0\n\n"
    m.file("/var/lib/dpkg/status", text)


def examine(machine, *arguments, user=None, program=process.EXECUTIVE, **more):
    environment = machine.environment(HOME=machine.root, **more)
    environment.pop("XDG_CACHE_HOME", None)
    options = {"user": user, "group": user, "extra_groups": []} if user else {}
    run = subprocess.run([program, "doctor", "--json", "--root", machine.root, *arguments], env=environment, capture_output=True, text=True,
                         timeout=120, check=False, cwd="/", **options)
    answer = json.loads(run.stdout)
    assert run.returncode == CODES[answer["verdict"]], (run.returncode, answer)
    return answer["verdict"], {f["id"]: f for f in answer["findings"]}


def finds(name, change, verdict="degraded", fix="", make=machines.meteor_lake, **more):
    with healthy(make) as machine:
        change(machine)
        got, findings = examine(machine, **more)
        assert name in findings, (name, list(findings))
        assert got == verdict, (name, got, findings)
        assert fix in findings[name]["fix"], findings[name]
        return findings


def a_healthy_machine():
    for make in (machines.meteor_lake, machines.arrow_lake_h, machines.lunar_lake_with_arc):
        with healthy(make) as machine:
            verdict, findings = examine(machine)
            assert verdict == "ok" and set(findings) <= {"model.none"}, findings


def a_kernel_without_the_driver():
    found = finds("npu.kernel", lambda m: m.remove(f"/lib/modules/{KERNEL}").remove(
        "/sys/devices/pci0000:00/0000:00:0b.0/driver"), fix="linux-generic-hwe")
    assert KERNEL in found["npu.kernel"]["text"], found


def a_module_that_is_not_loaded():
    finds("npu.module", lambda m: m.remove("/sys/devices/pci0000:00/0000:00:0b.0/driver"),
          fix="modprobe intel_vpu")


def firmware_for_another_generation():
    found = finds("npu.firmware", lambda m: m.remove("/lib/firmware/intel/vpu/vpu_37xx_v0.0.bin.zst"),
                  fix="intel-fw-npu")
    assert "vpu_37xx" in found["npu.firmware"]["text"], found
    finds("npu.firmware", lambda m: m.remove("/lib/firmware/intel/vpu/vpu_40xx_v0.0.bin.zst"),
          make=machines.lunar_lake_with_arc)


def no_node():
    finds("npu.node", lambda m: m.remove("/dev/accel/accel0"), fix="dmesg")


def as_another_user(machine):
    """Makes the machine's files those of root, and examines it as a user without groups: the
    program is copied to where that user may run it. None: this is not root."""
    if os.geteuid() != 0:
        return None
    program = machine.path("/executive_shard")
    shutil.copy(process.EXECUTIVE, program)
    for path in (machine.root, program):
        os.chmod(path, 0o755)
    return {"user": 65534, "program": program}


def a_node_of_another_group():
    with healthy() as machine:
        other = as_another_user(machine) or {}
        for path in ("/dev/accel/accel0", "/dev/dri/renderD128"):
            os.chmod(machine.path(path), 0o660 if other else 0)
        os.chmod(machine.path("/sys/class/powercap/intel-rapl:0/energy_uj"), 0o400 if other else 0)
        verdict, findings = examine(machine, **other)
        assert verdict == "degraded" and {"npu.access", "gpu.access"} <= set(findings), findings
        assert "usermod -a -G" in findings["npu.access"]["fix"], findings
        assert "chmod o+r" in findings["power.counter"]["fix"], findings


def driver_packages():
    finds("npu.driver", lambda m: m.remove(f"{LIB}/libze_intel_npu.so.1"),
          fix="intel-level-zero-npu")
    finds("npu.compiler", lambda m: m.remove(f"{LIB}/libnpu_driver_compiler.so"),
          fix="intel-driver-compiler-npu")
    found = finds("npu.mixed", lambda m: packages(m, npu="1.24.0", compiler="1.19.0"),
                  fix="one release")
    assert "1.19.0" in found["npu.mixed"]["text"], found
    found = finds("npu.mixed", lambda m: packages(m, npu="1.24.0", compiler="1.24.0",
                                                  firmware="1.10.0"), fix="one release")
    assert "intel-fw-npu 1.10.0" in found["npu.mixed"]["text"], found
    with healthy() as machine:
        packages(machine, npu="1.24.0.2025", compiler="1.24.0.2025", firmware="1.24.0.2025")
        verdict, findings = examine(machine)
        assert verdict == "ok" and "npu.mixed" not in findings, findings
    finds("npu.old_driver", lambda m: packages(m, npu="1.2.0.2024", compiler="1.2.0.2024"),
          fix="1.5.1")


def a_driver_from_before_its_npu():
    def panther_lake():
        return machines.Machine(machines.NPU.format(npu="0xb03e", clock=1950)).cpu(
            "Intel(R) Core(TM) Ultra X7 358H").npu(0xb03e)
    finds("npu.old_driver", lambda m: None, fix="1.28.0", make=panther_lake)


def loaders():
    def old(m):
        m.remove(f"{LIB}/libze_loader.so.1").link(f"{LIB}/libze_loader.so.1",
                                                  "libze_loader.so.1.8.0")
        m.file(f"{LIB}/libze_loader.so.1.8.0")
    found = finds("npu.old_loader", old, fix="1.17.17")
    assert "1.8.0" in found["npu.old_loader"]["text"], found
    finds("level_zero.loader", lambda m: m.remove(f"{LIB}/libze_loader.so.1"), fix="libze1")
    finds("gpu.level_zero", lambda m: m.remove(f"{LIB}/libze_intel_gpu.so.1"), verdict="ok",
          fix="intel-level-zero-gpu")


def opencl():
    finds("opencl.icd", lambda m: m.remove("/etc/OpenCL"), fix="intel-opencl-icd")
    finds("opencl.intel", lambda m: m.remove("/etc/OpenCL/vendors/intel.icd").file(
        "/etc/OpenCL/vendors/pocl.icd", "libpocl.so.2"), fix="intel-opencl-icd")
    finds("opencl.loader", lambda m: m.remove(f"{LIB}/libOpenCL.so.1"), fix="ocl-icd")
    finds("gpu.kernel", lambda m: m.remove("/sys/devices/pci0000:00/0000:00:02.0/driver"),
          fix="modprobe")


def wsl_and_containers():
    finds("wsl", lambda m: m.file("/proc/sys/kernel/osrelease",
                                  "5.15.153.1-microsoft-standard-WSL2\n"), fix="Linux itself")

    def container(m):
        m.file("/.dockerenv").remove("/dev/accel").remove("/dev/dri")
    found = finds("container.npu", container, fix="--device /dev/accel")
    assert "docker" in found["container.npu"]["text"], found
    assert "--device /dev/dri" in found["container.gpu"]["fix"], found


def shared_memory():
    def mounted(options, used=0):
        def change(m):
            m.file("/proc/self/mounts", "proc /proc proc rw 0 0\n"
                   f"tmpfs /dev/shm tmpfs rw,nosuid{options} 0 0\n")
            os.truncate(m.file("/dev/shm/of_another").path("/dev/shm/of_another"), used)
        return change
    finds("shm.absent", lambda m: m.remove("/dev/shm"), verdict="broken", fix="mount -t tmpfs")
    # What docker gives to a container that does not ask.
    found = finds("shm.small", mounted(",size=65536k", 10 << 20), verdict="broken",
                  fix="--shm-size=")
    assert "54 MiB free of 64" in found["shm.small"]["text"], found
    found = finds("shm.tight", mounted(",size=1g", 300 << 20), fix="remount,size=50%")
    assert "724 MiB free" in found["shm.tight"]["text"], found
    with healthy() as machine:
        mounted(",inode64")(machine)
        assert examine(machine)[0] == "ok", "a tmpfs without a limit"


def locked_memory():
    found = finds("memlock", lambda m: m.file(
        "/proc/self/limits", "Limit                     Soft Limit           Hard Limit\n"
        "Max locked memory         8388608              8388608              bytes\n"),
                  verdict="ok", fix="limits.d")
    assert "8192 KiB" in found["memlock"]["text"], found
    with healthy() as machine:
        machine.file("/proc/self/limits", "Max locked memory  unlimited  unlimited  bytes\n")
        assert "memlock" not in examine(machine)[1]


def power():
    found = finds("power.profile", lambda m: m.file("/sys/firmware/acpi/platform_profile",
                                                    "low-power\n"), fix="powerprofilesctl")
    assert "low-power" in found["power.profile"]["text"], found
    finds("power.preference", lambda m: m.file(
        "/sys/devices/system/cpu/cpu0/cpufreq/energy_performance_preference", "power\n"),
          fix="balance_performance")
    finds("power.battery", lambda m: m.file("/sys/class/power_supply/AC/online", "0\n"),
          verdict="ok")


def a_processor_without_avx2():
    finds("cpu.avx2", lambda m: m.file("/proc/cpuinfo", "model name\t: Old\nflags\t\t: fpu avx\n"),
          verdict="broken")


def a_driver_that_crashes():
    if not os.path.exists(machines.DRIVERS["gpu"]):
        print("     skipped: the fake Level Zero driver is not built")
        return

    def crash(m):
        m.ze = m.ze.replace("driver npu\n", "driver npu\nenumerate crash\n")
    found = finds("level_zero.crash", crash)
    assert "SIGSEGV" in found["level_zero.crash"]["text"], found


def stale_graphs():
    with healthy() as machine:
        blob = machine.file("/.cache/offering/blobs/00.blob", "x" * 4096).path(
            "/.cache/offering/blobs/00.blob")
        long_ago = time.time() - 30 * 86400
        os.utime(blob, (long_ago, long_ago))
        machine.file("/.cache/offering/blobs/01.blob", "x")
        later = time.time() + 60
        os.utime(machine.path("/.cache/offering/blobs/01.blob"), (later, later))
        _, findings = examine(machine)
        assert findings["cache.stale"]["text"].startswith("1 compiled"), findings
        assert "offering/blobs" in findings["cache.stale"]["fix"], findings


def packages_of_other_versions():
    if not os.path.exists(os.path.join(process.PACKAGE, "model.json")):
        print("     skipped: no package")
        return
    with healthy() as machine:
        verdict, findings = examine(machine, "--model", process.PACKAGE)
        assert verdict == "ok" and not [f for f in findings if f.startswith("model")], findings
        copy = machine.path("/package")
        shutil.copytree(process.PACKAGE, copy)
        path = os.path.join(copy, "model.json")
        with open(path, encoding="utf-8") as f:
            text = f.read()

        def rewritten(old, new):
            assert text.count(old) == 1, old
            # The file begins with its own checksum, computed with zeros in that place.
            changed = re.sub(r'("checksum": ")[0-9a-f]{64}', r"\g<1>" + "0" * 64,
                             text.replace(old, new), count=1)
            checksum = hashlib.sha256(changed.encode()).hexdigest()
            os.remove(path)
            with open(path, "w", encoding="utf-8") as f:
                f.write(changed.replace("0" * 64, checksum, 1))
            return examine(machine, "--model", copy)
        verdict, findings = rewritten('"format_version": 1,', '"format_version": 99,')
        assert verdict == "broken" and "99" in findings["model.version"]["text"], findings
        assert "bake" in findings["model.version"]["fix"], findings
        version = re.search(r'"generator": "(bake_model [^"]*)"', text)[1]
        verdict, findings = rewritten(version, "bake_model 0.0.1")
        assert verdict == "ok" and "0.0.1" in findings["model.generator"]["text"], findings
        os.truncate(path, 5000)
        verdict, findings = examine(machine, "--model", copy)
        assert verdict == "broken" and "model.broken" in findings, findings
        _, findings = examine(machine, "--model", machine.path("/absent"))
        assert "model.broken" in findings, findings


def for_people():
    with healthy() as machine:
        machine.remove("/etc/OpenCL")
        run = subprocess.run([process.EXECUTIVE, "doctor", "--root", machine.root], cwd="/",
                             env=machine.environment(HOME=machine.root), capture_output=True,
                             text=True, timeout=120, check=False)
        assert run.returncode == 3, run
        assert "fix: sudo apt install intel-opencl-icd" in run.stdout, run.stdout
        assert run.stdout.splitlines()[-1] == "degraded", run.stdout


process.run_tests([a_healthy_machine, a_kernel_without_the_driver, a_module_that_is_not_loaded,
                   firmware_for_another_generation, no_node, a_node_of_another_group,
                   driver_packages, a_driver_from_before_its_npu, loaders, opencl,
                   wsl_and_containers, shared_memory, locked_memory, power, a_processor_without_avx2,
                   a_driver_that_crashes, stale_graphs, packages_of_other_versions, for_people])

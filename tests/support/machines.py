"""Described machines: a directory that stands for the root of their file system, and what the fake
Level Zero driver plays. Figures are those that such machines show; none is measured here."""
import glob
import os
import shutil
import tempfile

BUILD = os.environ.get("OFFERING_BUILD_DIR", "")
DRIVERS = {name: os.path.join(BUILD, "tests", "fake_ze_driver", f"libfake_ze_{name}.so")
           for name in ("gpu", "npu")}



def newest_loaders():
    """Directories with a Level Zero loader and the C library that it needs, fetched by
    tests/support/newest_ze_loader.sh."""
    cache = os.path.join(os.environ.get("OFFERING_SOURCE_DIR", ""), ".cache", "ze_loader")
    return sorted(glob.glob(os.path.join(cache, "*")))


GPU_MTL = """\
driver gpu
version 1 3 29735
device gpu integrated
name Intel(R) Arc(TM) Graphics
ids 0x8086 0x7d55
pci 0000:00:02.0
clock 2250
queues 1 1
temperature 48 52 61
frequency 1950 2250 2250
throttle 0 0 8
utilisation 0.1 0.5 0.9
power 4 14 22
"""
NPU = """\
driver npu
version 1 24 0
device npu
name Intel(R) AI Boost
ids 0x8086 {npu}
pci 0000:00:0b.0
clock {clock}
queues 1 0
"""
DGPU = """\
device gpu discrete
name Intel(R) Arc(TM) A770 Graphics
ids 0x8086 0x56a0
pci 0000:03:00.0
clock 2400
memory 16225243136
queues 1 2
temperature 55 58
frequency 2100
power 80 150
memory_used 2e9 15.9e9
"""


class Machine:
    """A root directory and the environment that makes the real loader play the machine."""

    def __init__(self, ze=""):
        self.root = tempfile.mkdtemp(prefix="offering_machine_")
        self.ze = ze
        os.makedirs(os.path.join(self.root, "dev", "shm"))

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        shutil.rmtree(self.root, ignore_errors=True)

    def path(self, name):
        return os.path.join(self.root, name.lstrip("/"))

    def file(self, name, text="", mode=None):
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        if mode is not None:
            os.chmod(path, mode)
        return self

    def link(self, name, target):
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.symlink(target, path)
        return self

    def remove(self, name):
        path = self.path(name)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        elif os.path.lexists(path):
            os.remove(path)
        return self

    def cpu(self, model="Intel(R) Core(TM) Ultra 7 155H", khz=4800000):
        self.file("/proc/cpuinfo", f"processor\t: 0\nmodel name\t: {model}\nflags\t\t: fpu avx2\n")
        self.file("/proc/stat", "cpu  100 0 50 1000 0 0 0 0 0 0\n")
        self.file("/proc/sys/kernel/osrelease", "6.11.0-26-generic\n")
        self.file("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq", f"{khz}\n")
        self.file("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_min_freq", "400000\n")
        self.file("/sys/class/powercap/intel-rapl:0/name", "package-0\n")
        self.file("/sys/class/powercap/intel-rapl:0/energy_uj", "123456789\n")
        self.file("/sys/class/powercap/intel-rapl:0/max_energy_range_uj", "262143328850\n")
        return self

    def pci(self, address, vendor, device, kind, driver):
        base = f"/sys/devices/pci0000:00/{address}"
        self.file(f"{base}/vendor", f"0x{vendor:04x}\n").file(f"{base}/device", f"0x{device:04x}\n")
        self.file(f"{base}/class", kind + "\n")
        uevent = f"PCI_ID={vendor:04X}:{device:04X}\nPCI_SLOT_NAME={address}\n"
        self.file(f"{base}/uevent", (f"DRIVER={driver}\n" if driver else "") + uevent)
        if driver:
            self.link(f"{base}/driver", f"../../../bus/pci/drivers/{driver}")
        self.link(f"/sys/bus/pci/devices/{address}", f"../../../devices/pci0000:00/{address}")
        return base

    def npu(self, device=0x7d1d, driver="intel_vpu", clock=1400):
        base = self.pci("0000:00:0b.0", 0x8086, device, "0x120000", driver)
        if driver:
            self.link("/sys/class/accel/accel0", f"../..{base[4:]}/accel/accel0")
            self.link(f"{base}/accel/accel0/device", "../../../0000:00:0b.0")
            self.file(f"{base}/npu_busy_time_us", "1000\n")
            self.file(f"{base}/npu_max_frequency_mhz", f"{clock}\n")
            self.file(f"{base}/npu_current_frequency_mhz", "0\n")
            self.file(f"{base}/npu_memory_utilization", "0\n")
            self.file("/dev/accel/accel0", "", 0o660)
        return self

    def gpu(self, address="0000:00:02.0", device=0x7d55, driver="i915", number=0):
        base = self.pci(address, 0x8086, device, "0x030000", driver)
        if driver:
            self.link(f"/sys/class/drm/card{number}", f"../..{base[4:]}/drm/card{number}")
            self.link(f"{base}/drm/card{number}/device", f"../../../{address}")
            os.makedirs(self.path(f"{base}/drm/renderD{128 + number}"), exist_ok=True)
            self.file(f"{base}/drm/card{number}/gt_RP0_freq_mhz", "2250\n")
            self.file(f"{base}/drm/card{number}/gt_act_freq_mhz", "1950\n")
            self.file(f"/dev/dri/renderD{128 + number}", "", 0o660)
        return self

    def environment(self, **more):
        path = self.file("/ze.txt", self.ze).path("/ze.txt")
        names = [DRIVERS[name] for name in ("gpu", "npu") if f"driver {name}" in self.ze]
        return dict(os.environ, OFFERING_FAKE_ZE=path,
                    ZE_ENABLE_ALT_DRIVERS=",".join(names or ["libabsent.so"]), **more)


def meteor_lake():
    return Machine(GPU_MTL + NPU.format(npu="0x7d1d", clock=1400)).cpu().npu().gpu()


def arrow_lake_h():
    ze = GPU_MTL.replace("0x7d55", "0x7d51") + NPU.format(npu="0xad1d", clock=1400)
    machine = Machine(ze).cpu("Intel(R) Core(TM) Ultra 9 285H", 5400000)
    return machine.npu(0xad1d).gpu(device=0x7d51, driver="xe")


def lunar_lake_with_arc():
    gpu = GPU_MTL.replace("0x7d55", "0x64a0").replace("2250", "2050")
    machine = Machine(gpu + DGPU + NPU.format(npu="0x643e", clock=1950))
    machine.cpu("Intel(R) Core(TM) Ultra 7 258V").npu(0x643e, clock=1950)
    return machine.gpu(device=0x64a0, driver="xe").gpu("0000:03:00.0", 0x56a0, "xe", 1)


def old_gpu():
    gpu = GPU_MTL.replace("0x7d55", "0x5917").replace("Arc(TM)", "UHD")
    return Machine(gpu).cpu("Intel(R) Core(TM) i5-8350U CPU @ 1.70GHz").gpu(device=0x5917)

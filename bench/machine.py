"""What the figures were taken on, and whether it was quiet."""
import datetime
import os
import platform
import re
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def physical_cores():
    """Cores of the CPUs that this process may run on; each counts once, whatever its threads."""
    cores = set()
    for cpu in os.sched_getaffinity(0):
        folder = "/sys/devices/system/cpu/cpu%d/topology/" % cpu
        try:
            with open(folder + "physical_package_id") as a, open(folder + "core_id") as b:
                cores.add((a.read().strip(), b.read().strip()))
        except OSError:
            cores.add(("cpu", str(cpu)))
    return len(cores)


def output(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def cpu_name():
    with open("/proc/cpuinfo") as f:
        text = f.read()
    fields = {name: found.group(1) if (found := re.search(r"^%s\s*: (.*)$" % name, text, re.M)) else "?"
              for name in ("model name", "cpu family", "model", "stepping")}
    flags = re.search(r"^flags\s*: (.*)$", text, re.M)
    wanted = ("avx2", "avx_vnni", "avx512_vnni", "amx_int8")
    found = [f for f in wanted if flags and f in flags.group(1).split()]
    return "%s (family %s, model %s, stepping %s; %s)" % (
        fields["model name"], fields["cpu family"], fields["model"], fields["stepping"], ", ".join(found))


def memory_gib():
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def last_cache():
    try:
        with open("/sys/devices/system/cpu/cpu0/cache/index3/size") as f:
            return f.read().strip()
    except OSError:
        return "unknown"


def system_name():
    try:
        with open("/etc/os-release") as f:
            return re.search(r'^PRETTY_NAME="?([^"\n]*)', f.read(), re.M).group(1)
    except (OSError, AttributeError):
        return platform.system()


def stolen():
    """(stolen, all) ticks since boot."""
    with open("/proc/stat") as f:
        ticks = [int(x) for x in f.readline().split()[1:9]]
    return ticks[7], sum(ticks)


def commit():
    changed = " with changes" if output("git", "status", "--porcelain", "--untracked-files=no") else ""
    return (output("git", "rev-parse", "--short=10", "HEAD") or "unknown") + changed


def describe(threads):
    """Pairs for the head of the report."""
    return [
        ("date", datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")),
        ("commit", commit()),
        ("CPU", cpu_name()),
        ("last-level cache", last_cache()),
        ("memory", "%.0f GiB" % memory_gib()),
        ("system", "%s, Linux %s, %s" % (system_name(), platform.release(), output("gcc", "--version").split("\n")[0])),
        ("threads, each engine", "%d of %d physical cores" % (threads, physical_cores())),
    ]


def busy(load):
    """True where other work was running before the first sample."""
    return load > 0.25 * physical_cores() + 0.1

"""Processes begun with a mark in their environment, daemons included: their memory, and their time to
the first byte of output."""
import os
import selectors
import signal
import statistics
import subprocess
import threading
import time
import uuid

MARK = "OFFERING_BENCH_MARK"


class BenchError(Exception):
    """A measurement that could not be taken, with the reason."""


def marked_environment(extra=None):
    """(environment, mark)"""
    mark = uuid.uuid4().hex
    return dict(os.environ, **(extra or {}), **{MARK: mark}), mark


def marked(mark):
    """Pids of the living processes that carry the mark."""
    wanted, found = ("%s=%s" % (MARK, mark)).encode(), []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open("/proc/%s/environ" % entry, "rb") as f:
                    if wanted in f.read().split(b"\0"):
                        found.append(int(entry))
            except OSError:
                pass
    return found


def resident_bytes(pids):
    """Proportional set size of all together: what they share counts once."""
    total = 0
    for pid in pids:
        try:
            with open("/proc/%d/smaps_rollup" % pid) as f:
                total += next((int(line.split()[1]) for line in f if line.startswith("Pss:")), 0) * 1024
        except OSError:
            pass
    return total


class MemoryWatch:
    """While entered, reads the memory of the marked processes every 50 ms."""

    def __init__(self, mark):
        self.mark, self.readings = mark, []
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def look(self):
        size = resident_bytes(marked(self.mark))
        if size:
            self.readings.append(size)

    @property
    def last(self):
        return self.readings[-1] if self.readings else 0

    @property
    def peak(self):
        return max(self.readings, default=0)

    def late(self):
        """Of a program that has ended: the middle of the last quarter of the readings, since the very
        last ones see it go."""
        return statistics.median(self.readings[-max(3, len(self.readings) // 4):]) if self.readings else 0

    def run(self):
        while not self.done.wait(0.05):
            self.look()

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *unused):
        self.done.set()
        self.thread.join()


def run(command, env, timeout=3600, cwd=None):
    """stdout of a program that must succeed."""
    try:
        done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, timeout=timeout,
                              stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise BenchError("%s: no end after %d s" % (os.path.basename(command[0]), timeout)) from None
    except OSError as error:
        raise BenchError("%s: %s" % (command[0], error.strerror)) from None
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        how = "killed by %s" % signal.Signals(-done.returncode).name if done.returncode < 0 else (
            "exit code %d" % done.returncode)
        raise BenchError("%s: %s%s" % (os.path.basename(command[0]), how, ": " + lines[-1] if lines else ""))
    return done.stdout


def seconds_to_first_byte(command, env, timeout=600):
    """From before the start of the program to the first byte on its stdout. It is then waited for."""
    begin = time.monotonic()
    process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    seconds = None
    errors = bytearray()
    with process, selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        selector.register(process.stderr, selectors.EVENT_READ)
        while selector.get_map():
            left = begin + timeout - time.monotonic()
            for key, _ in selector.select(max(0, left)) if left > 0 else ():
                data = os.read(key.fd, 65536)
                if not data:
                    selector.unregister(key.fileobj)
                elif key.fileobj is process.stderr:
                    errors += data
                elif seconds is None:
                    seconds = time.monotonic() - begin
            # A daemon that it started may hold stderr open: the end of stdout is the end.
            if left <= 0 or process.stdout not in [k.fileobj for k in selector.get_map().values()]:
                break
        if left <= 0:
            process.kill()
        code = process.wait()
    name = os.path.basename(command[0])
    if left <= 0:
        raise BenchError("%s: no end after %d s" % (name, timeout))
    if code != 0 or seconds is None:
        last = errors.decode(errors="replace").strip().splitlines()[-1:] or ["nothing on stderr"]
        raise BenchError("%s: exit code %d, %s: %s" % (
            name, code, "no output" if seconds is None else "output", last[0]))
    return seconds

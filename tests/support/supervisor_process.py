"""The supervisor as a process: runs it in an environment of its own, and stops what it started.

Executives are found by their environment (XDG_RUNTIME_DIR is a fresh directory for each Session),
so that a test needs no knowledge of their sockets and never touches another one's.
"""
import fcntl
import json
import os
import pty
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time

BIN = os.environ["OFFERING_BIN_DIR"]
SUPERVISOR = os.path.join(BIN, "supervisor")
EXECUTIVE = os.path.join(BIN, "executive_shard")
PACKAGE = os.environ.get("OFFERING_TEST_PACKAGE") or os.path.join(
    os.environ.get("OFFERING_BUILD_DIR", ""), "test_packages", "smollm2")
TIMEOUT = 300


def skip(reason):
    print("skipped:", reason)
    sys.exit(77)


def require(executive=True):
    """Exit 77 unless the programs and the package are there."""
    if not os.path.exists(SUPERVISOR):
        skip(f"{SUPERVISOR} is not built")
    if executive and not os.path.exists(EXECUTIVE):
        skip(f"{EXECUTIVE} is not built")
    if not os.path.exists(os.path.join(PACKAGE, "model.json")):
        skip(f"no package in {PACKAGE}")


class Session:
    """A directory with runtime and state directories; `with` stops every process begun in it."""

    def __enter__(self):
        self.directory = tempfile.mkdtemp(prefix="offering_test_")
        self.runtime = os.path.join(self.directory, "runtime")
        self.state = os.path.join(self.directory, "state")
        os.mkdir(self.runtime, 0o700)
        self.environment = dict(os.environ, XDG_RUNTIME_DIR=self.runtime,
                                XDG_STATE_HOME=self.state, HOME=self.directory, TERM="xterm",
                                LC_ALL="C.UTF-8")
        return self

    def __exit__(self, *unused):
        for _ in range(50):
            left = self.processes()
            if not left:
                break
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.1)
        shutil.rmtree(self.directory, ignore_errors=True)

    def path(self, name):
        return os.path.join(self.directory, name)

    def write(self, name, content):
        mode = "wb" if isinstance(content, bytes) else "w"
        with open(self.path(name), mode) as file:
            file.write(content)
        return self.path(name)

    def processes(self, name=None):
        """Pids of the processes begun here (their environment has our runtime directory)."""
        mark = b"XDG_RUNTIME_DIR=" + self.runtime.encode() + b"\0"
        found = []
        for entry in os.listdir("/proc"):
            if not entry.isdigit() or int(entry) == os.getpid():
                continue
            try:
                with open(f"/proc/{entry}/environ", "rb") as file:
                    if mark not in file.read() + b"\0":
                        continue
                with open(f"/proc/{entry}/stat") as file:
                    stat = file.read()
                with open(f"/proc/{entry}/cmdline", "rb") as file:
                    program = os.path.basename(file.read().split(b"\0")[0]).decode()
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
            if stat.rsplit(")", 1)[1].split()[0] == "Z":
                continue
            if name is None or program == name:
                found.append(int(entry))
        return found

    def status(self):
        """What the executive says of itself; None while none serves. Asked on its socket: a program
        started for each question is too slow for tests that wait for a moment."""
        root = os.path.join(self.runtime, "offering")
        for instance in os.listdir(root) if os.path.isdir(root) else ():
            client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            client.settimeout(TIMEOUT)
            try:
                client.connect(os.path.join(root, instance, "executive.sock"))
                client.send(b'{"op":"status"}')
                answer = client.recv(1 << 20)
            except (FileNotFoundError, ConnectionError, BrokenPipeError):
                continue
            finally:
                client.close()
            if answer:
                return json.loads(answer)
        return None

    def worker(self):
        """The status of the (first) worker."""
        status = self.status()
        if status is None:
            raise AssertionError("no executive serves")
        return status["workers"][0]

    def executive(self):
        """(pid of the executive, pids of its children: workers, samplers of devices)."""
        pids = self.processes("executive_shard")
        parents = {}
        for pid in pids:
            try:
                with open(f"/proc/{pid}/stat") as file:
                    parents[pid] = int(file.read().rsplit(")", 1)[1].split()[1])
            except FileNotFoundError:
                pass
        workers = [pid for pid, parent in parents.items() if parent in parents]
        roots = [pid for pid in parents if pid not in workers]
        return (roots[0] if roots else None), workers

    def command(self, *arguments, model=True):
        words = [SUPERVISOR, *arguments]
        return words + (["--model", PACKAGE] if model else [])

    def run(self, *arguments, model=True, stdin="", code=0):
        """Runs to the end; checks the exit code. stdout and stderr are bytes."""
        done = subprocess.run(self.command(*arguments, model=model), env=self.environment,
                              cwd=self.directory, timeout=TIMEOUT, capture_output=True,
                              input=stdin if isinstance(stdin, bytes) else stdin.encode())
        if done.returncode != code:
            raise AssertionError(f"{arguments}: exit {done.returncode}, expected {code}\n"
                                 f"stdout: {done.stdout!r}\nstderr: {done.stderr.decode()}")
        return done

    def json(self, *arguments, **options):
        return json.loads(self.run(*arguments, "--json", **options).stdout)

    def start(self, *arguments):
        return subprocess.Popen(self.command(*arguments), env=self.environment, cwd=self.directory,
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE)

    def held(self, *arguments, after=60):
        return Held(self, *arguments, after=after)

    def terminal(self, *arguments):
        return Terminal(self.command(*arguments), self.environment, self.directory)


class Held:
    """A run whose standard output has room for so many bytes only: it stays in the middle of its
    answer, on machines of any speed and load, until rest() reads on."""

    def __init__(self, session, *arguments, after):
        self.reader, writer = os.pipe()
        size = fcntl.fcntl(writer, 1031, 4096)  # F_SETPIPE_SZ
        self.filled = size - after
        os.write(writer, b"." * self.filled)
        self.process = subprocess.Popen(session.command(*arguments), env=session.environment,
                                        cwd=session.directory, stdin=subprocess.DEVNULL,
                                        stdout=writer, stderr=subprocess.PIPE)
        os.close(writer)
        self.pid = self.process.pid

    def answering(self):
        """Waits for the first bytes of the answer."""
        end = time.monotonic() + TIMEOUT
        while self._unread() <= self.filled:
            if self.process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"no answer: {self.process.stderr.read()!r}")
            time.sleep(0.005)
        return self

    def _unread(self):
        return struct.unpack("i", fcntl.ioctl(self.reader, termios.FIONREAD, bytes(4)))[0]

    def rest(self):
        """(exit code, all of the answer, stderr), once the run has ended."""
        with os.fdopen(self.reader, "rb") as pipe:
            output = pipe.read()[self.filled:]
        errors = self.process.communicate(timeout=TIMEOUT)[1]
        return self.process.returncode, output, errors


def until(condition, what, seconds=TIMEOUT):
    """Waits for something that has no event of its own; the limit is for hangs, not for speed."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"waited too long for: {what}")
        time.sleep(0.01)


def segments():
    return {name for name in os.listdir("/dev/shm") if name.startswith("offering-")}


def no_segments_stay():
    """A segment has a name for an instant while it is made, also by tests that run beside this one:
    none of those that are there now may stay."""
    found = segments()
    until(lambda: not found & segments(), f"the end of /dev/shm names ({found})")


class Terminal:
    """A program on a pseudo-terminal of its own."""

    def __init__(self, command, environment, directory):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(directory)
            os.execve(command[0], command, environment)
        self.unread = b""
        self.all = b""

    def send(self, text):
        os.write(self.fd, text if isinstance(text, bytes) else text.encode())

    def _more(self, end):
        ready, _, _ = select.select([self.fd], [], [], max(0, end - time.time()))
        if not ready:
            raise AssertionError(f"nothing more on the terminal; unread: {self.unread[-2000:]!r}")
        try:
            data = os.read(self.fd, 65536)
        except OSError:
            data = b""
        if not data:
            raise AssertionError(f"the terminal closed; unread: {self.unread[-2000:]!r}")
        self.unread += data
        self.all += data

    def until(self, *wanted, timeout=TIMEOUT):
        """Reads up to the first of the texts; returns what came before and with it."""
        end = time.time() + timeout
        wanted = [text.encode() if isinstance(text, str) else text for text in wanted]
        while True:
            hits = [self.unread.find(text) + len(text) for text in wanted if text in self.unread]
            if hits:
                taken, self.unread = self.unread[:min(hits)], self.unread[min(hits):]
                return taken.decode("utf-8", "strict")
            self._more(end)

    def prompt(self):
        return self.until("\x1b[?2004h> ")

    def answering(self, size=40, timeout=TIMEOUT):
        """Waits until so many bytes of an answer are there."""
        end = time.time() + timeout
        self.until("\x1b[?2004l")
        while len(self.unread) < size:
            self._more(end)

    def finish(self, timeout=TIMEOUT):
        """Exit code of the program."""
        end = time.time() + timeout
        while time.time() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                os.close(self.fd)
                return os.waitstatus_to_exitcode(status)
            ready, _, _ = select.select([self.fd], [], [], 0.05)
            if ready:
                try:
                    os.read(self.fd, 65536)
                except OSError:
                    pass
        os.kill(self.pid, signal.SIGKILL)
        raise AssertionError("the program does not end")


def equal(got, expected, what=""):
    if got != expected:
        raise AssertionError(f"{what}: got {got!r}, expected {expected!r}")


def contains(text, part, what=""):
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    if part not in text:
        raise AssertionError(f"{what}: {part!r} is not in {text!r}")


def in_a_session(test):
    """`test`, which takes a Session, as one that makes its own."""
    def run():
        with Session() as session:
            test(session)
    run.__name__ = test.__name__
    return run


def run_tests(tests):
    """Runs all, reports each, fails if any did."""
    failed = 0
    for test in tests:
        begin = time.time()
        try:
            test()
            print(f"ok   {test.__name__} ({time.time() - begin:.1f} s)", flush=True)
        except Exception as error:  # a timeout of one test must not hide the others
            failed += 1
            print(f"FAIL {test.__name__}: {type(error).__name__}: {error}", flush=True)
    sys.exit(1 if failed else 0)

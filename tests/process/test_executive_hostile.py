"""A client that writes whatever it likes into what it shares: the executive serves on, the worker
answers or is replaced, and the next client gets right answers."""
import array
import ctypes
import json
import mmap
import os
import random
import socket
import struct
import subprocess
import time

from support import supervisor_process as process
from support.supervisor_process import until

process.require()
LIBC = ctypes.CDLL(None, use_errno=True)
JOB_BYTES = 832
RING_HEADER = 256
CAPACITY = 8
CANDIDATES = 5  # enum ofr_forward_output


def program(session, name, *arguments):
    return subprocess.run([os.path.join(process.BIN, name), *arguments], env=session.environment,
                          capture_output=True, text=True, timeout=120, check=False)


def start(session, *arguments):
    run = program(session, "executive_shard", "run", "--model", process.PACKAGE,
                  "--failure_window", "0", "--context", "1024", *arguments)
    assert run.returncode == 0, run.stderr


def status(session):
    run = program(session, "executive_shard", "status", "--json")
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def answer(session):
    return session.json("run", "--prompt", "The capital of France is", "--max_tokens", "6",
                        "--temperature", "0")["ids"]


class Client:
    """Attached as a supervisor is, with the shared segments mapped for writing."""

    def __init__(self, session):
        root = os.path.join(session.runtime, "offering")
        path = os.path.join(root, os.listdir(root)[0], "executive.sock")
        end = time.monotonic() + 60
        while True:
            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self.socket.settimeout(60)
            self.socket.connect(path)
            self.ask({"op": "hello", "version": 1, "program": "hostile"})
            self.socket.send(b'{"op":"attach"}')
            data, ancillary, _, _ = self.socket.recvmsg(65536, 1024)
            reply = json.loads(data)
            if reply["ok"]:
                break
            assert reply["code"] in ("again", "busy") and time.monotonic() < end, reply
            self.socket.close()
            time.sleep(0.02)
        self.fds = []
        for _, _, payload in ancillary:
            got = array.array("i")
            got.frombytes(payload[:len(payload) - len(payload) % got.itemsize])
            self.fds += list(got)
        self.size = os.fstat(self.fds[0]).st_size
        self.memory = mmap.mmap(self.fds[0], self.size)
        (self.jobs, self.completions, self.tokens) = struct.unpack_from("<QQQ", self.memory, 48)
        assert self.completions - self.jobs == RING_HEADER + CAPACITY * JOB_BYTES
        self.sequence = 0
        self.taken = 0

    def ask(self, message):
        self.socket.send(json.dumps(message).encode())
        return json.loads(self.socket.recv(65536))

    def wake(self, ring):
        """Adds to the bell and wakes whoever sleeps on it."""
        bell = struct.unpack_from("<I", self.memory, ring + 128)[0]
        struct.pack_into("<I", self.memory, ring + 128, (bell + 1) & 0xFFFFFFFF)
        word = ctypes.c_uint32.from_buffer(self.memory, ring + 128)
        LIBC.syscall(202, ctypes.byref(word), 1, 0x7FFFFFFF, None, None, 0)
        del word

    def push(self, job):
        head = struct.unpack_from("<I", self.memory, self.jobs)[0]
        at = self.jobs + RING_HEADER + head % CAPACITY * JOB_BYTES
        self.memory[at:at + JOB_BYTES] = job.ljust(JOB_BYTES, b"\0")
        struct.pack_into("<I", self.memory, self.jobs, (head + 1) & 0xFFFFFFFF)
        self.wake(self.jobs)

    def complete(self):
        """Status and text of the next completion."""
        end = time.monotonic() + 60
        while struct.unpack_from("<I", self.memory, self.completions)[0] == self.taken:
            assert time.monotonic() < end, "no completion"
            time.sleep(0.001)
        at = self.completions + RING_HEADER + self.taken % CAPACITY * 256
        sequence, code = struct.unpack_from("<Qi", self.memory, at)
        text = bytes(self.memory[at + 24:at + 256]).split(b"\0")[0].decode()
        self.taken += 1
        struct.pack_into("<I", self.memory, self.completions + 64, self.taken)
        return sequence, code, text

    def close(self):
        self.socket.close()
        self.memory.close()
        for fd in self.fds:
            os.close(fd)


def job(sequence, output, segments, n_tokens=None, kind=0, n_candidates=0, first_row=0):
    total = sum(s[2] for s in segments) if n_tokens is None else n_tokens
    data = struct.pack("<QIIII", sequence, output, len(segments), total & 0xFFFFFFFF, kind)
    data = (data + b"".join(struct.pack("<III", *s) for s in segments)).ljust(804, b"\0")
    return data + struct.pack("<IIII", first_row, 0, 0, n_candidates)


def impossible_jobs_are_answered(session):
    start(session)
    before = status(session)["workers"][0]
    client = Client(session)
    big = 0xFFFFFFFF
    jobs = [job(1, 0, []), job(2, 0, [(0, 0, 0)]), job(3, 1, [(big, 0, 1)]),
            job(4, 1, [(0, big, 1)]), job(5, 1, [(0, 1023, 512)]), job(6, 1, [(0, 0, big)]),
            job(7, 77, [(0, 0, 1)]), job(8, 2, [(0, 0, 1)]), job(9, 1, [(0, 0, 1)] * 64),
            job(10, 1, [(0, 0, 1)], n_tokens=9), job(11, 1, [(0, 0, 1)], kind=55),
            job(12, 0, [(0, 0, 9), (big, 0, 9)], n_tokens=0, kind=1),
            job(13, 0, [(0, 0, big), (0, 0, big)], n_tokens=0, kind=1),
            struct.pack("<QIIII", 14, 1, 1000, 1, 0), job(15, 1, [(0, 0x7FFFFFFF, 0x7FFFFFFF)]),
            job(16, CANDIDATES, [(0, 0, 1)]), job(17, CANDIDATES, [(0, 0, 1)], n_candidates=65),
            job(18, CANDIDATES, [(0, 0, 1)], n_candidates=big),
            job(19, CANDIDATES, [(0, 0, 1)], n_candidates=1, first_row=big),
            job(20, CANDIDATES, [(0, 0, big)], n_candidates=1)]
    for number, data in enumerate(jobs, 1):
        client.push(data)
        sequence, code, text = client.complete()
        assert sequence == number and code < 0 and text, (number, sequence, code, text)
    # Tokens that are none.
    struct.pack_into("<i", client.memory, client.tokens, -5)
    client.push(job(21, 1, [(0, 0, 1)]))
    assert client.complete()[1] < 0
    struct.pack_into("<i", client.memory, client.tokens, 1)
    client.push(job(22, 1, [(0, 0, 1)]))
    assert client.complete()[1] == 0, "and a good one is still served"
    # Candidates are those of the logits, in the row that the job says, and not one more.
    n_slots, vocab = struct.unpack_from("<II", client.memory, 32)
    logits_at, = struct.unpack_from("<Q", client.memory, 88)
    candidates_at, = struct.unpack_from("<Q", client.memory, 128)
    logits = struct.unpack_from(f"<{vocab}f", client.memory, logits_at)
    best = sorted(range(vocab), key=lambda i: (-logits[i], i))[:65]
    for row, n in ((0, 1), (n_slots - 1, 64)):
        size = 64 * 8
        at = candidates_at + row * size
        client.memory[at:at + size] = b"\xee" * size
        client.push(job(23, CANDIDATES, [(0, 0, 1)], n_candidates=n, first_row=row))
        assert client.complete()[1] == 0
        found = list(struct.iter_unpack("<if", client.memory[at:at + n * 8]))
        assert found == [(i, logits[i]) for i in best[:n]], found
        assert client.memory[at + n * 8:at + size] == b"\xee" * (size - n * 8)
    client.close()
    after = status(session)["workers"][0]
    assert after["pid"] == before["pid"] and after["restarts"] == 0, after


def random_bytes_everywhere(session):
    start(session)
    expected = answer(session)
    pid = status(session)["pid"]
    numbers = random.Random(7)
    for _ in range(6):
        client = Client(session)
        for _ in range(30):
            for base, size in ((0, 4096), (client.jobs, 7000), (client.completions, 2300),
                               (client.tokens, 6144)):
                at = base + numbers.randrange(size - 64)
                client.memory[at:at + 64] = numbers.randbytes(64)
            client.wake(client.jobs)
        if len(client.fds) > 1:
            os.pwrite(client.fds[1], numbers.randbytes(4096), 0)
        client.close()
    assert status(session)["pid"] == pid
    assert answer(session) == expected


def truncated_segments(session):
    start(session)
    expected = answer(session)
    first = status(session)
    client = Client(session)
    client.push(job(1, 1, [(0, 0, 1)]))
    client.complete()
    for fd in client.fds:
        os.ftruncate(fd, 0)
    # The mapping is now beyond the end for everyone; the next look at it costs the worker its life.
    client.socket.close()
    assert answer(session) == expected
    second = Client(session)
    os.ftruncate(second.fds[0], 4096)
    second.socket.close()
    assert answer(session) == expected
    last = status(session)
    assert last["pid"] == first["pid"], "the executive never maps what clients can truncate"


def a_slow_reader_blocks_nobody(session):
    """Completions are not taken and status answers not read."""
    start(session)
    client = Client(session)
    for number in range(20):
        struct.pack_into("<i", client.memory, client.tokens, 1)
        client.push(job(number, 0, [(0, 0, 1)]))
        time.sleep(0.02)
    for _ in range(200):
        try:
            client.socket.send(b'{"op":"status"}', socket.MSG_DONTWAIT)
        except (BlockingIOError, BrokenPipeError, ConnectionResetError):
            break
    assert status(session)["ok"]
    client.close()
    assert answer(session)


def instance_directory(session):
    root = os.path.join(session.runtime, "offering")
    return os.path.join(root, os.listdir(root)[0])


def private_whatever_the_umask(session):
    """Directories 0700, socket and files 0600, under the umask that hides nothing."""
    mask = os.umask(0)
    try:
        start(session)
    finally:
        os.umask(mask)
    directory = instance_directory(session)
    modes = {os.path.dirname(directory): 0o700, directory: 0o700}
    modes.update({os.path.join(directory, name): 0o600 for name in os.listdir(directory)})
    assert os.path.join(directory, "executive.sock") in modes, modes
    for path, mode in modes.items():
        found = os.stat(path).st_mode & 0o777
        assert found & ~mode == 0, (path, oct(found))


def as_nobody(function):
    """Exit code of function() in a process of another user."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            code = function()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def another_user_is_not_served(session):
    if os.geteuid() != 0:
        print("     skipped: only root can play another user")
        return
    start(session)
    path = os.path.join(instance_directory(session), "executive.sock")

    def knock():
        client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        client.settimeout(60)
        try:
            client.connect(path)
        except PermissionError:
            return 1
        try:
            client.send(b'{"op":"status"}')
            return 3 if client.recv(65536) else 2
        except (ConnectionResetError, BrokenPipeError):
            return 2

    assert as_nobody(knock) == 1, "the directory is closed"
    # Even where somebody has opened everything, the peer's uid decides.
    at = path
    while at != "/tmp" and at != "/":
        os.chmod(at, 0o777)
        at = os.path.dirname(at)
    assert as_nobody(knock) == 2, "the connection is closed without an answer"
    os.chmod(instance_directory(session), 0o700)
    os.chmod(os.path.join(session.runtime, "offering"), 0o700)
    assert answer(session), "and its own user is served on"


def descriptors_that_nobody_asked_for(session):
    """Clients that send descriptors, many of them: none stays open in the executive."""
    start(session)
    status(session)
    pid = session.status()["pid"]
    until(lambda: session.status()["client"] is None, "no client")
    before = len(os.listdir(f"/proc/{pid}/fd"))
    null = os.open("/dev/null", os.O_RDONLY)
    for number in (1, 4, 64, 200):
        for _ in range(5):
            client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            client.settimeout(60)
            client.connect(os.path.join(instance_directory(session), "executive.sock"))
            rights = array.array("i", [null] * number)
            client.sendmsg([b'{"op":"status"}'],
                           [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights.tobytes())])
            try:
                client.recv(1 << 16)
            except ConnectionResetError:
                pass
            client.close()
    os.close(null)
    until(lambda: len(os.listdir(f"/proc/{pid}/fd")) <= before, "the descriptors' end")
    assert answer(session)


def more_than_there_is_is_refused(session):
    run = program(session, "executive_shard", "run", "--model", process.PACKAGE, "--context",
                  "16777216", "--slots", "16")
    assert run.returncode == 1, run.stderr
    assert "/dev/shm" in run.stderr and "--context" in run.stderr, run.stderr


process.run_tests([process.in_a_session(test) for test in (
    impossible_jobs_are_answered, random_bytes_everywhere, truncated_segments,
    a_slow_reader_blocks_nobody, private_whatever_the_umask,
    another_user_is_not_served, descriptors_that_nobody_asked_for, more_than_there_is_is_refused)])

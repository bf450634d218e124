"""The executive under a service manager: an inherited socket, readiness, journal lines, the units."""
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import time

from support import supervisor_process as process

process.require()
BUILD = os.environ["OFFERING_BUILD_DIR"]


def until(condition, what, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited too long for: {what}"
        time.sleep(0.01)


class Service:
    """executive_shard run --foreground with a socket that it inherits, as systemd starts it."""

    def __init__(self, session, kind=socket.SOCK_SEQPACKET):
        directory = os.path.join(session.runtime, "offering", "unit")
        os.makedirs(directory, mode=0o700)
        os.chmod(os.path.dirname(directory), 0o700)
        self.path = os.path.join(directory, "executive.sock")
        listener = socket.socket(socket.AF_UNIX, kind)
        listener.bind(self.path)
        os.chmod(self.path, 0o600)
        if kind != socket.SOCK_DGRAM:
            listener.listen(4)
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(session.path("notify"))
        self.notify.settimeout(120)
        environment = dict(session.environment, LISTEN_FDS="1", JOURNAL_STREAM="8:1",
                           NOTIFY_SOCKET=session.path("notify"))
        # The shell keeps its pid when it becomes the program; descriptor 3 is the listener.
        script = (f"exec 3<&{listener.fileno()}; LISTEN_PID=$$ exec '{process.EXECUTIVE}' run "
                  f"--foreground --instance unit --model '{process.PACKAGE}' --log_level debug")
        self.process = subprocess.Popen(["/bin/sh", "-c", script], env=environment,
                                        pass_fds=[listener.fileno()], stderr=subprocess.PIPE,
                                        stdin=subprocess.DEVNULL)
        listener.close()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        _, errors = self.process.communicate(timeout=60)
        self.notify.close()
        return errors.decode()


def answer(session):
    return session.json("run", "--prompt", "Hello", "--max_tokens", "4", "--instance", "unit")


def activated_by_its_socket(session):
    service = Service(session)
    # The client comes before the service is ready, and is answered when it is.
    assert answer(session)["ids"]
    assert service.notify.recv(4096) == b"READY=1"
    log = service.stop()
    assert service.process.returncode == 0, log
    lines = [line for line in log.splitlines() if line]
    assert lines and all(line[0] == "<" and line[2] == ">" for line in lines), log
    mode = os.stat(service.path).st_mode
    assert stat.S_ISSOCK(mode), "the socket is the service manager's and stays"


def another_kind_of_socket_is_refused(session):
    service = Service(session, socket.SOCK_STREAM)
    assert service.process.wait(timeout=60) == 1
    assert b"SequentialPacket" in service.process.stderr.read()
    service.process.stderr.close()
    service.notify.close()


def variables_of_another_process_are_ignored(session):
    environment = dict(session.environment, LISTEN_PID="1", LISTEN_FDS="1")
    run = subprocess.run([process.EXECUTIVE, "run", "--model", process.PACKAGE], env=environment,
                         capture_output=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    status = subprocess.run([process.EXECUTIVE, "status", "--json"], env=session.environment,
                            capture_output=True, timeout=60, check=True)
    assert json.loads(status.stdout)["ok"]


def the_units_are_installed(session):
    """cmake --install into a prefix of its own: the unit names the program that is there, and the
    program runs from there."""
    prefix = session.path("prefix")
    run = subprocess.run(["cmake", "--install", BUILD, "--prefix", prefix], capture_output=True,
                         text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr
    program = os.path.join(prefix, "bin", "executive_shard")
    for name in ("executive_shard", "supervisor", "bake_model"):
        subprocess.run([os.path.join(prefix, "bin", name), "--version"], check=True,
                       capture_output=True, timeout=60)
    units = os.path.join(prefix, "lib", "systemd", "user")
    assert sorted(os.listdir(units)) == ["offering@.service", "offering@.socket"]
    with open(os.path.join(units, "offering@.service"), encoding="utf-8") as f:
        text = f.read()
    assert "@OFFERING" not in text and f"ExecStart={program} run --foreground" in text, text
    if not shutil.which("systemd-analyze"):
        print("     skipped: no systemd-analyze here")
        return
    for kind in ("service", "socket"):
        shutil.copy(os.path.join(units, f"offering@.{kind}"),
                    os.path.join(units, f"offering@x.{kind}"))
    run = subprocess.run(["systemd-analyze", "verify", "--user", "--man=no",
                          os.path.join(units, "offering@x.service")], env=session.environment,
                         capture_output=True, text=True, timeout=60, check=False)
    wrong = [line for line in run.stderr.splitlines() if "offering@" in line]
    assert not wrong, run.stderr


process.run_tests([process.in_a_session(test) for test in (
    activated_by_its_socket, another_kind_of_socket_is_refused,
    variables_of_another_process_are_ignored, the_units_are_installed)])

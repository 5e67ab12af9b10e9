"""Processes of Python that start in milliseconds: forked by one that has imported torch, scadles and pytest for all.

A forked process is one like any other: it has a number, signals reach it, it can be killed, and its exit code is that
of the interpreter. :func:`spawn` starts what ``python ARGUMENTS`` would. The server is started by the first test that
asks for it, serves all workers of pytest, and ends with pytest. It has no thread, so that forking is safe; run as a
script, this file is it.
"""

import array
import atexit
import contextlib
import ctypes
import fcntl
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import types
from pathlib import Path

_PRELOADED = (
    "confluent_kafka",
    "hypothesis",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "numpy.testing",
    "paho.mqtt.client",
    "PIL.Image",
    "pytest",
    "rich.console",
    "rich.live",
    "rich.progress",
    "rich.table",
    "safetensors.torch",
    "sklearn.datasets",
    "torch.distributed.nn.functional",
    "torch.nn.parallel",
    "yaml",
)
_CLONE_NEWNET = 0x40000000
_START_S = 120.0
_available = sys.platform == "linux" and os.environ.get("SCADLES_TESTS_FORK") != "0"


class Forked:
    """A forked process, with the methods of a ``subprocess.Popen`` that tests use."""

    def __init__(self, server, pid):
        self.pid = pid
        self.returncode = None
        self._server = server
        self._ended = os.pidfd_open(pid)

    def poll(self):
        """Return the exit code, negative for a signal; None while the process runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)

    def wait(self, timeout=None):
        """Wait for the end, at most so many seconds, and return the exit code."""
        if self.returncode is None:
            if not select.select([self._ended], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            self.returncode = _ask(self._server, {"reap": self.pid})
            os.close(self._ended)
        return self.returncode

    def send_signal(self, number):
        if self.returncode is None:
            os.kill(self.pid, number)  # its number is its own until it is reaped

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def spawn(arguments, *, cwd, env, stdout, stderr, interrupts="default", imported="everything"):
    """Start what ``python ARGUMENTS`` would, in a session of its own and without standard input.

    Args:
        arguments: ``-m MODULE ...``, ``-c CODE ...`` or ``SCRIPT ...``.
        cwd: the folder to be in.
        env: the environment, all of it.
        stdout: an open file, or a number of one.
        stderr: likewise.
        interrupts: ``ignored``, as a shell starts what runs in the background, or ``default``.
        imported: what the process has imported already: ``everything``, or nothing but ``torch``.
    """
    arguments = [str(argument) for argument in arguments]
    if not _available:
        return _exec(arguments, cwd, env, stdout, stderr, interrupts)
    wish = {"arguments": arguments, "cwd": str(cwd), "env": env, "interrupts": interrupts}
    server = _running_server(imported)
    with open("/proc/thread-self/ns/net") as network:  # noqa: PTH123 - its descriptor travels
        files = [stdout, stderr, network]
        return Forked(server, _ask(server, wish, [file if isinstance(file, int) else file.fileno() for file in files]))


def _exec(arguments, cwd, env, stdout, stderr, interrupts):
    def prepare():
        signal.signal(signal.SIGINT, signal.SIG_IGN if interrupts == "ignored" else signal.SIG_DFL)

    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
        preexec_fn=prepare,
    )


def _ask(server, wish, files=()):
    """Send a wish to the server and return its answer."""
    message = json.dumps(wish).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(server)
        connection.sendmsg([struct.pack("!Q", len(message))], _as_ancillary(files))
        connection.sendall(message)
        return json.loads(connection.makefile().read())


def _as_ancillary(files):
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))] if files else []


def _running_server(imported):
    """Return the address of a server of this run of pytest; start it where it does not run yet."""
    pytest_pid = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
    folder = Path(tempfile.gettempdir()) / f"scadles-fork-server-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    address = folder / f"{pytest_pid}-{imported}"
    with address.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _answers(address):
            _start_server(address, pytest_pid, imported)
    return str(address)


def _answers(address):
    try:
        return _ask(str(address), {"ping": 1}) == 1
    except OSError:
        return False


def _start_server(address, pytest_pid, imported):
    address.unlink(missing_ok=True)
    # libraries read these when they are loaded; threads would make forking unsafe
    alone = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    log = address.with_suffix(".log")
    with log.open("w") as said:
        server = subprocess.Popen(
            [sys.executable, __file__, str(address), str(pytest_pid), imported],
            env=os.environ | alone,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,
        )
    deadline_s = time.monotonic() + _START_S
    while not _answers(address):
        assert server.poll() is None, f"the fork server ended: {log.read_text()}"
        assert time.monotonic() < deadline_s, f"the fork server does not start: {log.read_text()}"
        time.sleep(0.05)
    server.returncode = 0  # it is nobody's to wait for


# what follows is done by the server, and by what it forks


def _preload(imported):
    if imported == "torch":
        importlib.import_module("torch")
        return
    for name in _PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    package = Path(importlib.import_module("scadles").__file__).parent
    for path in sorted(package.rglob("*.py")):
        name = ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")
        if path.name != "__main__.py":
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    import torch

    torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)  # imports what is first imported by optimizers


def _serve(address, pytest_pid):
    """Fork what is asked for; return, with what is wished for, in forked processes only."""
    children = set()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(100)
        pytest_ended = os.pidfd_open(pytest_pid)
        while True:
            if pytest_ended in select.select([listener, pytest_ended], [], [])[0]:
                _end(children, address)
            connection, _ = listener.accept()
            with connection:
                wish, files = _received(connection)
                if "arguments" in wish:
                    pid = os.fork()
                    if pid == 0:
                        os.close(pytest_ended)
                        break
                    children.add(pid)
                    answer = pid
                elif "reap" in wish:
                    answer = os.waitstatus_to_exitcode(os.waitpid(wish["reap"], 0)[1])
                    children.discard(wish["reap"])
                else:
                    answer = 1
                for file in files:
                    os.close(file)
                connection.sendall(json.dumps(answer).encode())
    return wish, files


def _received(connection):
    head, ancillary, _, _ = connection.recvmsg(8, socket.CMSG_SPACE(12))
    (length,) = struct.unpack("!Q", head)
    message = b""
    while len(message) < length:
        message += connection.recv(length - len(message))
    files = array.array("i")
    for _, _, data in ancillary:
        files.frombytes(data)
    return json.loads(message), list(files)


def _end(children, address):
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    for leftover in Path(address).parent.glob(f"{Path(address).name}*"):
        leftover.unlink(missing_ok=True)
    os.kill(os.getpid(), signal.SIGKILL)  # at once: whatever was measured here was measured elsewhere too


def _become(wish, files):
    """Be a process as the interpreter would have started it."""
    stdout, stderr, network = files
    os.setsid()
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    if os.fstat(network).st_ino != Path("/proc/self/ns/net").stat().st_ino:
        assert ctypes.CDLL(None).setns(network, _CLONE_NEWNET) == 0
    for file in files:
        os.close(file)
    os.chdir(wish["cwd"])
    os.environ.clear()
    os.environ.update(wish["env"])
    ignored = wish["interrupts"] == "ignored"
    signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    import numpy as np
    import torch

    np.random.seed()  # noqa: NPY002 - whoever uses it has a state of his own
    torch.set_num_threads(int(wish["env"].get("OMP_NUM_THREADS", "1")))


def _run(arguments):
    """Do what ``python ARGUMENTS`` does."""
    kind, *rest = arguments
    if kind == "-m":
        sys.argv = ["-m", *rest[1:]]
        sys.path[0] = str(Path.cwd())
        runpy._run_module_as_main(rest[0])
        return
    main = types.ModuleType("__main__")
    if kind == "-c":
        sys.argv, sys.path[0] = ["-c", *rest[1:]], ""
        code = compile(rest[0], "<string>", "exec")
    else:
        sys.argv, sys.path[0] = arguments, str(Path(kind).absolute().parent)
        main.__file__ = kind
        code = compile(Path(kind).read_text(), kind, "exec")
    sys.modules["__main__"] = main
    exec(code, main.__dict__)


def _end_as_python(work):
    """Do ``work()``, then end as the interpreter does, but for taking apart what was imported, which takes a second."""
    code = 0
    try:
        work()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if end.code is not None and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
    except BaseException as error:  # noqa: BLE001 - all of them are told, as by the interpreter
        sys.excepthook(type(error), error, error.__traceback__.tb_next.tb_next)
        code = 1
        if isinstance(error, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            code = -signal.SIGINT
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    if code < 0:
        os.kill(os.getpid(), -code)
    os._exit(code & 0xFF)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _preload(sys.argv[3])
    gc.freeze()  # what is there now is not looked at again, which would copy its pages in every process
    assert len(os.listdir("/proc/self/task")) == 1, "threads do not survive a fork"  # noqa: PTH208
    _server = sys.modules["__main__"]  # its functions are still running where __main__ becomes another
    _wish, _files = _serve(sys.argv[1], int(sys.argv[2]))
    _become(_wish, _files)
    _end_as_python(lambda: _run(_wish["arguments"]))

"""The command line as a user runs it, without the seconds that its imports take each time.

A server (multiprocessing's ``forkserver``) imports what a run imports, once per test process, and
forks a process for each command: own directory, environment and standard streams, SIGKILL and
exit status as in a shell. What depends on a fresh interpreter (libraries that read the
environment when they are imported) starts one instead.
"""

import multiprocessing
import os
import signal
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["preloaded"])


class Command:
    """A command that runs: as much of ``subprocess.Popen`` as the tests need.

    Args:
        words: what follows ``agilepruner``.
        cwd: where. env: variables besides this process's.
        streams: descriptor -> a file it writes to, or None to close it; 1 and 2 are kept else.
    """

    def __init__(self, *words, cwd=".", env=None, streams=None):
        kept = {fd: tempfile.NamedTemporaryFile() for fd in (1, 2)}  # noqa: SIM115
        self._kept = kept
        where = {fd: file.name for fd, file in kept.items()} | (streams or {})
        environment = {**os.environ, **(env or {})}
        arguments = ([str(word) for word in words], str(cwd), environment, where)
        os.environ["PYTHONPATH"] = os.pathsep.join(map(str, (HERE, HERE.parent)))
        self._process = SERVER.Process(target=_run, args=arguments)
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self):
        return self._process.exitcode

    def poll(self):
        return self._process.exitcode

    def wait(self, timeout=300):
        self._process.join(timeout)
        if self.returncode is None:
            self._process.kill()
            raise TimeoutError(f"still running after {timeout} s: {self.communicate()[1]}")
        return self.returncode

    def kill(self):
        """SIGKILL; nothing, when it has ended."""
        self._process.kill()

    def communicate(self, timeout=300):
        self.wait(timeout)
        return self.stdout, self.stderr

    @property
    def stdout(self):
        return Path(self._kept[1].name).read_text()

    @property
    def stderr(self):
        return Path(self._kept[2].name).read_text()


def run(*words, **settings):
    """A command, when it has ended."""
    command = Command(*words, **settings)
    command.wait()
    return command


def _run(words, cwd, environment, streams):
    """In the forked process: become the command."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    for fd, path in streams.items():
        if path is None:
            os.close(fd)
        else:
            opened = os.open(path, os.O_WRONLY)
            os.dup2(opened, fd)
            os.close(opened)
    sys.stdout, sys.stderr = (_stream(fd, environment) for fd in (1, 2))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["agilepruner", *words]

    from agilepruner import cli

    cli.main()


def _stream(fd, environment):
    """A standard stream as the interpreter makes it at its start."""
    try:
        os.fstat(fd)
    except OSError:
        return None
    encoding = environment.get("PYTHONIOENCODING", "utf-8")
    return open(fd, "w", buffering=1 if fd == 2 else -1, encoding=encoding, closefd=False)

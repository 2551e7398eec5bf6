"""Ctrl-C: one line and exit code 130, whatever the main thread does; a terminal that is closed."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
START = """
import signal, sys, time
signal.signal(signal.SIGINT, HANDLER)
from arinv import interrupts
interrupts._LINE_SECONDS = interrupts._GRACE_SECONDS = 0.2
interrupts.install_handler()
def wait():
    print("ready", flush=True)
    time.sleep(60)
"""
IN_RUN = 'interrupts.allow_cleanup("start again")\n'
SWALLOW = """
class Swallow:
    def __del__(self):
        wait()
def busy():
    del Swallow.instance
    time.sleep(60)
Swallow.instance = Swallow()
busy()
"""
FINISH = """
try:
    wait()
except KeyboardInterrupt:
    interrupts.report()
    print("finished", flush=True)
    raise SystemExit(130)
"""
HANG = """
try:
    wait()
finally:
    print("ready", flush=True)
    time.sleep(60)
"""
IGNORED = "time.sleep = lambda _: sys.stdin.read()\nwait()\n"


def start(code, *, handler="signal.default_int_handler"):
    return subprocess.Popen(
        [sys.executable, "-c", START.replace("HANDLER", handler) + code], cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("code", "line", "printed"),
    [
        ("wait()", "arinv: interrupted", ""),
        (f"{IN_RUN}{FINISH}", "arinv: interrupted; start again", "finished\n"),
        (f"{IN_RUN}{SWALLOW}", "arinv: interrupted; start again", ""),  # as in a callback of JAX
        (f"{IN_RUN}{HANG}", "arinv: interrupted; start again", "ready\n"),
    ],
    ids=["imports", "run", "swallowed", "hangs"],
)
def test_interrupt_prints_one_line_and_exits_with_130(code, line, printed):
    process = start(code)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert (process.returncode, errors.strip(), output) == (130, line, printed)


def test_second_interrupt_exits_immediately():
    process = start(f"interrupts._GRACE_SECONDS = 50\n{IN_RUN}{HANG}")
    for _ in range(2):
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors.strip()) == (130, "arinv: interrupted; start again")


def test_ignored_interrupt_stays_ignored():
    process = start(IGNORED, handler="signal.SIG_IGN")
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate("", timeout=30)[1] == "" and process.returncode == 0


TERMINAL = """
import os, signal, sys, time
from arinv import interrupts
signal.signal(signal.SIGHUP, HANDLER)
interrupts.outlive_terminals()
def save(*_):
    print("saved", flush=True)
    print("saved", file=sys.stderr, flush=True)
    raise SystemExit(143)
signal.signal(signal.SIGTERM, save)
os.write(1, b"ready\\n")  # a signal within print() could not print
time.sleep(60)
"""


@pytest.mark.parametrize("handler", ["SIG_DFL", "SIG_IGN"])
def test_a_closed_terminal_ends_a_run_like_sigterm_or_not_at_all(handler):
    """The line of the end has nowhere to go. With SIGHUP ignored, as by nohup, only SIGTERM itself ends the run."""
    ours, theirs = os.openpty()
    command = [sys.executable, "-c", TERMINAL.replace("HANDLER", f"signal.{handler}")]
    process = subprocess.Popen(command, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    with open(ours, "rb", buffering=0) as terminal:
        assert terminal.readline() == b"ready\r\n"
    process.send_signal(signal.SIGHUP)
    if handler == "SIG_IGN":
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.5)
        process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 143

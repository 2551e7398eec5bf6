"""Runs one arinv command in several processes on this machine, as a pod would run it on its hosts.

Every line of output has the number of its process in front. SIGTERM, SIGINT and SIGHUP are passed on to all processes.
When one fails, the others get a while to end by themselves, and are killed then; the exit code is that of the first.
"""

import argparse
import errno
import os
import pathlib
import re
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping

# Several threads print "[Gloo] Rank 0 is connected to 7 peer ranks. Expected number of connected peer ranks is : 7" at
# once, and the pieces mix.
_GLOO = re.compile(rb"(?:\[Gloo\]|Rank|is|connected|to|peer|ranks\.?|Expected|number|of|:|\d|\s)+")
ROOT = pathlib.Path(__file__).resolve().parents[1]


def parse(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Returns our options, and the arguments that go to arinv."""
    parser = argparse.ArgumentParser(
        prog="launch/local",
        description=__doc__.split("\n")[0],
        epilog="All other arguments go to arinv: launch/local -n 2 --config=configs/quickstart.py --workdir=runs/two",
        allow_abbrev=False,
    )
    parser.add_argument("-n", "--processes", type=int, default=2, metavar="N", help="number of processes (%(default)s)")
    parser.add_argument("--devices", type=int, default=0, metavar="D",
                        help="virtual CPU devices of each process, without a GPU; 0: the machine's GPUs, divided among "
                        "the processes, or one CPU device each")  # fmt: skip
    parser.add_argument("--patience", type=float, default=30.0, metavar="SECONDS",
                        help="for the others to end by themselves once one has failed (%(default)g)")  # fmt: skip
    options, rest = parser.parse_known_args(argv)
    if options.processes < 1:
        parser.error("--processes must be 1 or more")
    if options.devices < 0:
        parser.error("--devices must be 0 or more")
    rest = [argument for argument in rest if argument != "--"]
    if not rest:
        parser.error("arguments of arinv are missing, such as --config=configs/quickstart.py --workdir=runs/two")
    return options, rest


def free_port() -> int:
    """Returns an unused port."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """Returns the names of the GPUs that a process started here would see."""
    if "CUDA_VISIBLE_DEVICES" in environment:
        return [name for name in environment["CUDA_VISIBLE_DEVICES"].split(",") if name.strip()]
    if not shutil.which("nvidia-smi"):
        return []
    result = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True)
    return re.findall(r"^GPU (\d+):", result.stdout, flags=re.MULTILINE)


def environments(count: int, devices: int, gpus: list[str], inherited: Mapping[str, str]) -> list[dict[str, str]]:
    """Returns the variables of each process.

    Args:
      count: number of processes.
      devices: virtual CPU devices of each; 0 for the GPUs.
      gpus: GPUs of this machine.
      inherited: variables of this process.

    Raises:
      ValueError: GPUs that cannot be divided among the processes.
    """
    if not devices and len(gpus) % count:
        raise ValueError(f"{len(gpus)} GPU(s) cannot be divided among {count} processes; use --devices for the CPU")
    address, share = f"127.0.0.1:{free_port()}", len(gpus) // count
    environments = []
    for index in range(count):
        variables = {
            **inherited,
            "JAX_COORDINATOR_ADDRESS": address,
            "JAX_NUM_PROCESSES": str(count),
            "JAX_PROCESS_ID": str(index),
        }
        if devices:
            flag = f"--xla_force_host_platform_device_count={devices}"
            variables |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{inherited.get('XLA_FLAGS', '')} {flag}".strip()}
        elif gpus:
            variables["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[index * share : (index + 1) * share])
        environments.append(variables)
    return environments


class Output:
    """Prints what the processes write, line by line, each with the number of its process."""

    def __init__(self):
        self._selector = selectors.DefaultSelector()
        self._rest: dict[int, bytes] = {}
        self._is_lost = False  # whether the terminal was closed, while the processes still save

    def add(self, index: int, *streams) -> None:
        """Listens to a process."""
        for stream in streams:
            os.set_blocking(stream.fileno(), False)
            self._selector.register(stream, selectors.EVENT_READ, index)
            self._rest[stream.fileno()] = b""

    def serve(self, seconds: float) -> bool:
        """Prints the output of at most `seconds`; returns whether there was any."""
        if not self._selector.get_map():
            time.sleep(seconds)
            return False
        events = self._selector.select(seconds)
        for key, _ in events:
            data, rest = key.fileobj.read(65536), self._rest[key.fd]
            if data == b"":
                self._selector.unregister(key.fileobj)
                key.fileobj.close()
                data = b"\n" if rest else b""
            # A progress bar goes back to the start of its line, where several of them would overwrite each other.
            *lines, self._rest[key.fd] = re.split(rb"[\r\n]", rest + (data or b""))
            self._print(b"[%d] %s\n" % (key.data, line.rstrip()) for line in lines if not is_noise(line))
        return bool(events)

    def _print(self, lines: Iterable[bytes]) -> None:
        if not self._is_lost:
            try:
                sys.stdout.buffer.writelines(lines)
                sys.stdout.buffer.flush()
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                self._is_lost = True
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is in the buffer

    def close(self) -> None:
        """Prints the remaining output, and stops listening."""
        while self.serve(0.1):
            pass
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()
        self._selector.close()


def is_noise(line: bytes) -> bool:
    """Returns whether a line is empty, or part of what the connections between CPU devices print."""
    return not line.strip() or bool(_GLOO.fullmatch(line))


def shell_code(code: int) -> int:
    """Returns the exit code in the shell's convention: 128 and more for signals."""
    return code if code >= 0 else 128 - code


def run(command: list[str], variables: list[dict[str, str]], patience: float) -> int:
    """Runs the command once for each set of variables, and returns the exit code.

    Args:
      command: command of every process.
      variables: variables of each process.
      patience: seconds that the others get once one has failed.
    """
    output, processes = Output(), []
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as by nohup
        numbers.append(signal.SIGHUP)
    handlers = {number: signal.signal(number, lambda n, _: _pass_on(processes, n)) for number in numbers}
    try:
        for index, environment in enumerate(variables):
            # In a session of its own, a process gets no SIGINT from the terminal beside the one that is passed on.
            process = subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
            )
            output.add(index, process.stdout, process.stderr)
            processes.append(process)
        return _watch(processes, output, patience)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        output.close()
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _pass_on(processes: list[subprocess.Popen], number: int) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


def _watch(processes: list[subprocess.Popen], output: Output, patience: float) -> int:
    """Waits for all processes, and returns the exit code of the first that failed."""
    first, deadline = 0, None
    alive = dict(enumerate(processes))
    while alive:
        output.serve(0.1)
        for index, process in list(alive.items()):
            if (code := process.poll()) is None:
                continue
            del alive[index]
            if code and deadline is None:
                first, deadline = shell_code(code), time.monotonic() + patience
        if alive and deadline is not None and time.monotonic() > deadline:
            names = ", ".join(str(index) for index in alive)
            print(f"launch/local: killed process {names}, still there {patience:g} s after another ended", flush=True)
            for process in alive.values():
                process.kill()
            deadline = float("inf")
    return first


def main(argv: list[str] | None = None) -> int:
    """Runs the command of the arguments, and returns the exit code."""
    options, rest = parse(argv)
    inherited = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    try:
        variables = environments(options.processes, options.devices, visible_gpus(os.environ), inherited)
    except ValueError as error:
        print(f"launch/local: {error}", file=sys.stderr)
        return 2
    return run([sys.executable, "-m", "arinv", *rest], variables, options.patience)


if __name__ == "__main__":
    raise SystemExit(main())

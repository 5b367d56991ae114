"""The watch over the Ray processes that `python -m deployments.serve` starts as its children."""

import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
from msgspec import Struct

NAMES = ("gcs_server", "raylet")  # Ray starts each once
# A raylet ends when one of its two agents does, or does not start in time.
LOGS = {
    "gcs_server": ("gcs_server.out", "gcs_server.err"),
    "raylet": ("dashboard_agent.log", "runtime_env_agent.log", "raylet.err", "raylet.out"),
}
# Lines of Ray: "[TIME E PID TID] (raylet) FILE:LINE: TEXT", or "TIME\tERROR FILE:LINE -- TEXT".
ERROR = re.compile(r"\[[^]]* [EFC] \d+ \d+\] \(\w+\) [^:]+:\d+: +(.*)|.*\t(?:ERROR|CRITICAL) (.*)")
BOILERPLATE = re.compile(r"An unexpected system state.* we'll work with you to fix it\. ")
NUM_LINES = 3  # of each log
MAX_CHARS = 400  # of a line
TAIL_BYTES = 256 * 1024


class Watched(Struct, frozen=True):
    """One of the cluster's own processes, while it runs."""

    pid: int
    logs: Path | None  # the folder of its logs


def watch_cluster(
    ended: threading.Event, on_loss: Callable[[str], object], *, period_s: float
) -> None:
    """Call `on_loss` with the reason when the raylet or the GCS has ended.

    The rest of the cluster is killed first. Returns when `ended` is set, or after the call.
    """
    started: dict[str, Watched] = {}
    processes: set[psutil.Process] = set()
    while not ended.wait(period_s):
        processes |= set(psutil.Process().children(recursive=True))
        running = running_children()
        if lost := started.keys() - running.keys():
            name = max(lost)  # the raylet, if both have ended: Ray stops the GCS after it
            reason = loss_of(name, started[name])
            kill(processes)
            on_loss(reason)
            return
        started |= {name: running[name] for name in running.keys() & set(NAMES)}


def running_children() -> dict[str, Watched]:
    """This process's children that have not ended, by name."""
    children = {}
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            if child.status() != psutil.STATUS_ZOMBIE:
                children[child.name()] = Watched(child.pid, logs_folder(child.cmdline()))
    return children


def logs_folder(command: list[str]) -> Path | None:
    """The value of --log_dir in a command line."""
    option = "--log_dir="
    return next((Path(arg.removeprefix(option)) for arg in command if arg.startswith(option)), None)


def loss_of(name: str, process: Watched) -> str:
    """Why a process has ended: its errors, then a line with its status and the last error."""
    errors = list(last_errors(name, process.logs))
    end = end_of(process.pid)
    reason = f"the cluster is gone: its {name} has ended, {end}"
    if errors and end != "killed by SIGKILL":  # by others: no error of its own is the reason
        reason += f": {errors[-1].partition(': ')[2]}"
    return "\n".join([*errors, reason])


def end_of(pid: int) -> str:
    """How a child ended. Its status stays available to Ray."""
    try:
        end = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # Ray has waited for it
        return "status unknown"
    if end is None:
        return "status unknown"
    if end.si_code == os.CLD_EXITED:
        return f"status {end.si_status}"
    return f"killed by {signal.Signals(end.si_status).name}"


def last_errors(name: str, logs: Path | None) -> Iterator[str]:
    """The last errors in the logs of a process, as "FILE: TEXT". The most telling file is last."""
    for file in LOGS[name] if logs else ():
        assert logs is not None
        errors = dict.fromkeys(errors_in(tail_of(logs / file)))  # a fatal one is written twice
        yield from (f"{file}: {error}" for error in list(errors)[-NUM_LINES:])


def errors_in(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if found := ERROR.match(line):
            error = BOILERPLATE.sub("", found[1] or found[2])
            yield error if len(error) <= MAX_CHARS else error[: MAX_CHARS - 1] + "…"


def tail_of(path: Path) -> str:
    """The end of a file; empty if there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def kill(processes: set[psutil.Process]) -> None:
    """Kill those that still run, so that their ports and memory are free. Waits up to 5 s."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=5)

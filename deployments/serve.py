"""The command `python -m deployments.serve FILE`: Serve's own `serve run`, checked and watched.

It sets Ray's environment, and refuses a config that cannot work before Ray starts. It prints the
address once a world can be entered, and ends with status 1 when Serve gives up or its cluster is
gone.
"""

import argparse
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NoReturn

import click
import psutil
import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.scripts import cli

from deployments.agent_ports import choose_agent_ports
from deployments.closing import close_worlds
from deployments.cluster_watch import kill, watch_cluster
from deployments.config_file import ConfigFile, read_config_file
from deployments.preflight import check_machine
from deployments.proxy import HOOK
from deployments.readiness import outcome_of
from deployments.schema_keys import ConfigError

# docs/operating.md has the reasons.
ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_agent_register_timeout_ms": "120000",
    "RAY_gcs_server_port_wait_time_s": "120",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": HOOK,
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "2",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    "RAY_task_events_max_num_task_in_gcs": "2000",
    "RAY_worker_niceness": "0",
}
WATCH_PERIOD_S = 1.0
EXIT_GRACE_S = 5.0  # clients that wait for a failed world learn the reason meanwhile
CLOSING_S = 5.0
SHUTDOWN_S = 8.0


def main(argv: Sequence[str]) -> int:
    """Serve a config until it is interrupted. The last line on stderr is the reason of a failure.

    Returns 1 for a config that cannot work.
    """
    parser = argparse.ArgumentParser("python -m deployments.serve", description=__doc__)
    parser.add_argument("file", type=Path)
    path: Path = parser.parse_args(argv).file
    set_environment()
    try:
        file = read_config_file(path)
        check_machine(file)
        port = hold_port(file.host, file.port)
    except ConfigError as exc:
        print(f"{path}: {exc}", file=sys.stderr)
        return 1
    with port:
        return run(path, file)


def set_environment() -> None:
    """The variables that the operator has not set. The cluster is always one of this process."""
    environment = os.environ  # noqa: TID251  this command is where Ray's environment is made
    for name, value in ENVIRONMENT.items():
        environment.setdefault(name, value)
    environment["RAY_ADDRESS"] = "local"


def hold_port(host: str, port: int) -> socket.socket:
    """A socket that keeps other servers off this port until it is closed, but not our own proxy.

    Serve's proxies set SO_REUSEPORT, so that two servers could share a port. A bind without the
    option is refused while the port is taken. Raises ConfigError.
    """
    holder = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind((host, port))
    except (OSError, UnicodeError) as exc:  # UnicodeError: a name that the resolver cannot take
        holder.close()
        reason = exc.strerror if isinstance(exc, OSError) else "not a host name"
        raise ConfigError(f"http_options: cannot listen on {host}:{port}: {reason}") from exc
    # Now that it is bound: share with sockets that set SO_REUSEPORT, and with no other.
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return holder


def run(path: Path, file: ConfigFile) -> int:
    """Serve's `serve run` of a checked config, with an eye on the cluster."""
    ended = threading.Event()
    watch = partial(watch_cluster, ended, end_at_once, period_s=WATCH_PERIOD_S)
    threading.Thread(target=watch, daemon=True).start()
    failure = None
    choose_agent_ports()
    try:
        cli(["run", "--non-blocking", str(path)], standalone_mode=False)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
        failure = wait_for_failure(address_of(file))
        time.sleep(EXIT_GRACE_S)
    except (KeyboardInterrupt, click.Abort):
        print("shutting down; press Ctrl-C again to end at once", file=sys.stderr, flush=True)
    except SystemExit:  # Serve has printed the traceback
        failure = "Serve refused the config"
    except Exception as exc:
        ended.set()
        kill_cluster()
        end_at_once(f"{path}: {type(exc).__name__}: {exc}")
    ended.set()
    try:
        shut_down(told=failure is not None)
    except KeyboardInterrupt:
        failure = failure or "interrupted twice: the cluster was ended at once"
    kill_cluster()
    sys.stdout.flush()
    print(failure or "the server has shut down", file=sys.stderr, flush=True)
    os._exit(1 if failure else 0)  # Ray's own exit would ask the processes that are gone


def address_of(file: ConfigFile) -> str:
    """The page's address, as a browser on this machine reaches it."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(file.host, file.host)
    if ":" in host:
        host = f"[{host}]"
    scheme = "https" if file.has_tls else "http"
    return f"{scheme}://{host}:{file.port}{file.route_prefix.rstrip('/')}/"


def wait_for_failure(address: str) -> str:
    """Returns the reason when Serve gives up the start.

    Prints the address when worlds can be opened. Later failures are for the operator, who may
    deploy another config.
    """
    told = False
    while True:
        outcome = None
        if not told:
            with suppress(RayError, RayServeException):  # a controller that is replaced just now
                outcome = outcome_of(serve.status())
        if outcome is not None and outcome.failure is not None:
            return f"the world failed to start: {outcome.failure}"
        if outcome is not None:
            print(f"the page is open at {address}", file=sys.stderr, flush=True)
            told = True
        time.sleep(WATCH_PERIOD_S)


def shut_down(*, told: bool) -> None:
    """Stop Serve within `CLOSING_S` + `SHUTDOWN_S`. Clients get the reason unless `told`."""
    if not ray.is_initialized():
        return
    if not told:
        with suppress(Exception):  # the rest of Serve is ended anyway
            close_worlds("the server is shutting down", timeout_s=CLOSING_S)
    stopping = threading.Thread(target=serve.shutdown, daemon=True)
    stopping.start()
    stopping.join(SHUTDOWN_S)


def kill_cluster() -> None:
    """End the processes that Ray has started."""
    kill(set(psutil.Process().children(recursive=True)))


def end_at_once(reason: str) -> NoReturn:
    """End this process with status 1. A supervisor decides whether it starts again."""
    print(reason, file=sys.stderr, flush=True)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

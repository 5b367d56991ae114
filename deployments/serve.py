"""The command `python -m deployments.serve FILE`: Serve's own `serve run`, checked and watched.

It sets Ray's environment, and refuses a config that cannot work before Ray starts. It prints the
address once a world can be entered, and ends with status 1 when its cluster is gone.
"""

import argparse
import os
import socket
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NoReturn

import psutil
import ray
from ray import serve
from ray.serve.scripts import cli

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
    "RAY_worker_niceness": "0",
}
WATCH_PERIOD_S = 1.0
# A raylet ends if one of its agents takes over 15 s to start, which no setting changes. On two
# cores beside other servers that happens now and then.
MAX_ATTEMPTS = 3


def main(argv: Sequence[str]) -> int:
    """Serve a config until it is interrupted. The last line on stderr is the reason of a failure.

    Returns 1 for a config that cannot work.
    """
    parser = argparse.ArgumentParser("python -m deployments.serve", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--attempt", type=int, default=1, help=argparse.SUPPRESS)  # our own
    options = parser.parse_args(argv)
    path: Path = options.file
    set_environment()
    try:
        file = read_config_file(path)
        check_machine(file)
        port = hold_port(file.host, file.port)
    except ConfigError as exc:
        print(f"{path}: {exc}", file=sys.stderr)
        return 1
    with port:
        return run(path, file, attempt=options.attempt)


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


def run(path: Path, file: ConfigFile, *, attempt: int) -> int:
    """Serve's `serve run` of a checked config, with an eye on the cluster."""
    ended = threading.Event()
    on_loss = partial(end_or_start_again, path, attempt=attempt)
    watch = partial(watch_cluster, ended, on_loss, period_s=WATCH_PERIOD_S)
    threading.Thread(target=watch, daemon=True).start()
    threading.Thread(target=announce, args=[address_of(file), ended], daemon=True).start()
    try:
        cli(["run", str(path)], standalone_mode=False)
    except Exception as exc:
        ended.set()
        kill(set(psutil.Process().children(recursive=True)))
        end_or_start_again(path, f"{path}: {type(exc).__name__}: {exc}", attempt=attempt)
    finally:
        ended.set()  # Ray stops the cluster's processes when this process exits
    return 0


def address_of(file: ConfigFile) -> str:
    """The page's address, as a browser on this machine reaches it."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(file.host, file.host)
    return f"http://{host}:{file.port}{file.route_prefix.rstrip('/')}/"


def announce(address: str, ended: threading.Event) -> None:
    """Print the address once a world can be entered, or the reason when Serve has given up."""
    while not ended.wait(WATCH_PERIOD_S):
        outcome = None
        if ray.is_initialized():
            with suppress(Exception):  # Serve has not started, or has stopped meanwhile
                outcome = outcome_of(serve.status())
        if outcome is not None:
            failure = outcome.failure and f"the world failed to start: {outcome.failure}"
            print(failure or f"the page is open at {address}", file=sys.stderr, flush=True)
            return


def end_or_start_again(path: Path, reason: str, *, attempt: int) -> NoReturn:
    """End this process with status 1, or run the command again if its cluster did not come up.

    A cluster that is gone may have had worlds: a supervisor decides whether it starts again.
    """
    print(reason, file=sys.stderr, flush=True)
    if ray.is_initialized() or attempt == MAX_ATTEMPTS:
        os._exit(1)
    print(f"starting again, attempt {attempt + 1} of {MAX_ATTEMPTS}", file=sys.stderr, flush=True)
    again = ["-m", "deployments.serve", str(path), "--attempt", str(attempt + 1)]
    os.execv(sys.executable, [sys.executable, *again])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The server of a test run or benchmark that is killed ends with it."""

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

from benchmarks.local_server import ROOT, command_line, edit_config, free_port

START = """
import sys, time
from pathlib import Path
from benchmarks.local_server import start_server

print(start_server(Path(sys.argv[1]), "127.0.0.1:1").process.pid, flush=True)
time.sleep(600)
"""


def test_a_server_ends_with_the_process_that_started_it():
    # Ray's paths of sockets must be short, and pytest's folders are deep.
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder:
        config = Path(folder) / "serve_config.yaml"
        config.write_bytes(edit_config({}, num_ranks=1, port=free_port()))
        command = [sys.executable, "-c", START, str(config)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
            server = psutil.Process(int(parent.stdout.readline()))
            while "setpriv" in command_line(server) or "python" not in command_line(server):
                assert server.is_running()
            parent.kill()
        try:
            server.wait(60)
        finally:
            if server.is_running():
                server.send_signal(signal.SIGINT)
                server.wait(60)

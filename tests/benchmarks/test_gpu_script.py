"""`benchmarks/gpu.sh`, with an interpreter that notes its arguments."""

import os
import subprocess

from benchmarks.local_server import ROOT

MARK = ".".join(("pytest", "mark", "gpu"))  # in one piece, the script would take this file for one


def test_every_test_with_the_mark_gpu_is_run(tmp_path):
    python, notes = tmp_path / "python", tmp_path / "notes"
    python.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" >> {notes}\n")
    python.chmod(0o755)
    command = ["bash", ROOT / "benchmarks/gpu.sh", tmp_path / "out"]
    environment = os.environ | {"PYTHON": str(python)}
    assert subprocess.run(command, env=environment, timeout=60).returncode == 0
    run = {line for line in notes.read_text().splitlines() if line.startswith("tests/")}
    marked = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("test_*.py")
        if MARK in path.read_text()
    }
    assert run == marked and len(run) > 1

"""The end of the servers that tests share, in a run of pytest of its own."""

import subprocess
import sys
from textwrap import dedent

import pytest

TESTS = """
from contextlib import contextmanager
import pytest

@contextmanager
def start(name):
    print("start", name, flush=True)
    yield name
    print("stop", name, flush=True)

@pytest.fixture
def one(shared_server):
    return shared_server("one", lambda: start("one"))

@pytest.fixture
def two(shared_server):
    return shared_server("two", lambda: start("two"))

@pytest.fixture
def broken():
    yield
    raise OSError

@pytest.fixture
def interrupted(one):
    yield
    print("end of the fixture", flush=True)
"""

ENDS = {
    "group after group": (
        """
        @pytest.mark.xdist_group("a")
        def test_a(one): assert one == "one"

        @pytest.mark.xdist_group("a")
        def test_b(one): print("again")

        @pytest.mark.xdist_group("b")
        def test_c(two): assert two == "two"
        """,
        ["start one", "again", "stop one", "start two", "stop two"],
    ),
    "two fixtures": (
        """
        def test_a(one): assert one == "one"

        def test_b(two): assert two == "two"
        """,
        ["start one", "start two", "stop two", "stop one"],
    ),
    "a fixture that raises": (
        """
        @pytest.mark.xdist_group("a")
        def test_a(one, broken): pass

        @pytest.mark.xdist_group("b")
        def test_b(one): pass
        """,
        ["start one", "stop one", "start one", "stop one"],
    ),
    "Ctrl-C": (
        """
        def test_a(interrupted): raise KeyboardInterrupt

        def test_b(one): print("not reached")
        """,
        ["start one", "end of the fixture", "stop one"],
    ),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_shared_server_ends_with_its_group_whatever_ends_the_group(tmp_path, end):
    body, expected = ENDS[end]
    path = tmp_path / "test_group.py"
    path.write_text(TESTS + dedent(body))
    args = ["-p", "tests.conftest", "-p", "no:schemathesis", "-q", "-s", "-c", "/dev/null"]
    command = [sys.executable, "-m", "pytest", *args, f"--rootdir={tmp_path}", path]
    lines = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    words = {"start", "stop", "again", "end", "not"}
    said = [line.lstrip(".E") for line in lines]
    assert [line for line in said if line.split(" ")[0] in words] == expected, lines

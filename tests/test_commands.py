"""Each command of the project explains itself: its modules import, and its options parse."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("benchmarks", "deployments", "examples", "lingbot", "pocket", "transport")


def commands():
    """The names that `python -m` runs: modules with a `main`, and packages with a `__main__`."""
    for path in (path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if '__name__ == "__main__"' in path.read_text():
            yield name.removesuffix(".__main__")


# Another test may have imported the module.
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("command", list(commands()))
def test_a_command_explains_itself(command, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [command, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(command, run_name="__main__")
    usage = capsys.readouterr().out
    assert ended.value.code in (0, None)
    assert usage.startswith("usage:") and len(usage.split()) > 20, usage

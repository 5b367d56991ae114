"""Each module has a test file of its own, or its docstring names the file that tests it."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("lingbot", "transport", "deployments", "pocket", "examples")
# Modules that no test runs, because they compute for minutes.
UNTESTED = {
    "pocket/evaluate.py",  # the command; its parts have tests
    "pocket/evaluation/classifier.py",
    "pocket/evaluation/prompts.py",
    "pocket/evaluation/recache.py",
    "pocket/openings.py",
}


def modules():
    found = (path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
    names = (str(path.relative_to(ROOT)) for path in found if not path.name.startswith("__"))
    return sorted(set(names) - UNTESTED)


@pytest.mark.parametrize("module", modules())
def test_a_module_has_a_test_file(module):
    path = ROOT / module
    room = Path(module).parts[0]
    if any((ROOT / "tests" / room).rglob(f"test_{path.stem}.py")):
        return
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    named = re.search(r"Tested in `(tests/[\w/]+\.py)`\.", docstring)
    assert named, f"no tests/{room}/**/test_{path.stem}.py, and no `Tested in ...` in {module}"
    assert (ROOT / named[1]).is_file()

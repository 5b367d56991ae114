"""The files of the page, without a browser: imports, unused files and folders."""

import re
from pathlib import Path

import pytest

WEB = Path(__file__).parents[2] / "transport" / "web"
INDEX = WEB / "index.html"
MODULES = sorted(path for path in WEB.rglob("*.js") if "vendor" not in path.parts)
IMPORT = re.compile(r'(?:\bfrom|\bimport\(?|\bnew URL\()\s*"([^"]+\.js)"')
LINK = re.compile(r'(?:src|href)="static/([^"]+)"')


def references(path: Path) -> set[Path]:
    """The files that a page or module loads."""
    text = path.read_text()
    if path == INDEX:
        return {WEB / link for link in LINK.findall(text)}
    return {(path.parent / name).resolve() for name in IMPORT.findall(text)}


@pytest.mark.parametrize("path", [INDEX, *MODULES], ids=lambda path: path.name)
def test_every_referenced_file_exists(path: Path) -> None:
    assert [str(target) for target in references(path) if not target.is_file()] == []


def test_every_file_is_reachable_from_the_page() -> None:
    reached: set[Path] = set()
    pending = {INDEX}
    while pending:
        path = pending.pop()
        reached.add(path)
        if path == INDEX or path in MODULES:
            pending |= references(path) - reached
    assert {path for path in WEB.rglob("*") if path.is_file()} - reached == set()


@pytest.mark.parametrize("folder", ["session", "player", "input", "ui", "world"])
def test_a_folder_imports_only_itself_and_vendor(folder: str) -> None:
    """The modules beside the folders connect them."""
    modules = [path for path in MODULES if path.parent == WEB / folder]
    assert modules
    for path in modules:
        assert {target.parent.name for target in references(path)} <= {folder, "vendor"}, path.name

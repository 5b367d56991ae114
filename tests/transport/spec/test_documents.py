"""The committed documents against those that the code generates."""

import subprocess
import sys

import pytest

from transport.spec.__main__ import FOLDER, build_documents, to_text


@pytest.mark.parametrize("name, document", build_documents().items())
def test_the_committed_document_is_current(name, document):
    committed = (FOLDER / name).read_text(encoding="utf-8")
    assert committed == to_text(document), f"{name} is stale: run `python -m transport.spec`"


def test_serving_builds_no_document():
    code = "import sys, transport.app; print(*(m for m in sys.modules if 'transport.spec' in m))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == []

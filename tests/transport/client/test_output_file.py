import os
import threading
from pathlib import Path

import pytest

from transport.client.output_file import open_output, replace_content
from transport.wire.errors import TransportError


def test_content_is_replaced(tmp_path):
    path = tmp_path / "walk.mp4"
    path.write_bytes(b"something longer")
    with open_output(path) as file:
        assert path.read_bytes() == b"something longer"
        replace_content(file, b"short")
    assert path.read_bytes() == b"short"


@pytest.mark.parametrize("is_new", [True, False])
def test_a_failure_removes_only_a_new_file(tmp_path, is_new):
    path = tmp_path / "walk.mp4"
    if not is_new:
        path.write_bytes(b"earlier")
    with pytest.raises(KeyboardInterrupt), open_output(path):
        assert path.exists()
        raise KeyboardInterrupt
    assert path.exists() is not is_new


def test_a_pipe_gets_all_bytes(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    received = []
    reader = threading.Thread(target=lambda: received.append(path.read_bytes()))
    reader.start()
    with open_output(path) as file:
        replace_content(file, b"x" * 1_000_000)
    reader.join()
    assert received == [b"x" * 1_000_000]


def test_a_full_disk_names_the_file():
    with (
        pytest.raises(TransportError, match="^/dev/full: No space left on device$"),
        open_output(Path("/dev/full")) as file,
    ):
        replace_content(file, b"x")

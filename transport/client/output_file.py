"""A file that is opened before there is anything to write to it."""

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transport.wire.errors import TransportError


@contextmanager
def open_output(path: Path) -> Iterator[io.FileIO]:
    """Open a file for `replace_content`; raises TransportError with the path and the reason.

    A file that exists keeps its content until then. A new one is removed if the body raises.
    """
    try:
        is_new = not path.exists()
        file = path.open("ab", buffering=0)
    except OSError as exc:
        raise TransportError(f"{path}: {exc.strerror or exc}") from exc
    with file:
        try:
            yield file
        except BaseException:
            if is_new:
                path.unlink(missing_ok=True)
            raise


def replace_content(file: io.FileIO, data: bytes) -> None:
    """Write `data` in place of the content. Raises TransportError with the path and the reason."""
    try:
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # a pipe or a device has no length
            file.truncate(0)
        rest = memoryview(data)
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as exc:
        raise TransportError(f"{file.name}: {exc.strerror or exc}") from exc

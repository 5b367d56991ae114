"""Names of a `.pth` file's tensors, read from its pickle without running it. Imports no torch."""

import pickletools
from pathlib import Path
from typing import IO
from zipfile import BadZipFile, ZipFile, is_zipfile
from zlib import error as ZlibError

from lingbot.errors import WeightsError
from lingbot.files import refuse_other_kinds

# In the format before zip archives, numbers and system facts come first, and the value is fourth.
LEGACY_PICKLES = 4
# RuntimeError: an encrypted archive. StopIteration: one without a pickle.
DAMAGE = (OSError, EOFError, RuntimeError, ValueError, StopIteration, BadZipFile, ZlibError)


def state_dict_names(path: Path) -> frozenset[str]:
    """All strings of the pickle: the names of the tensors, and a few more.

    Reads none of the weights. Raises WeightsError for a damaged file or one of another kind.
    """
    refuse_other_kinds(path)
    try:
        if not is_zipfile(path):
            with path.open("rb") as file:
                return frozenset().union(*(pickled_strings(file) for _ in range(LEGACY_PICKLES)))
        with ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            with archive.open(name) as file:
                return pickled_strings(file)
    except DAMAGE as exc:
        raise WeightsError(f"{path}: not a whole PyTorch file of tensors") from exc


def pickled_strings(file: IO[bytes]) -> frozenset[str]:
    """The strings of the next pickle in `file`. Raises ValueError if there is none."""
    return frozenset(arg for _, arg, _ in pickletools.genops(file) if isinstance(arg, str))

"""Generates the API documents beside this file: `python -m transport.spec`."""

import argparse
import json
from pathlib import Path

from transport.spec.asyncapi import build_asyncapi
from transport.spec.openapi import build_openapi
from transport.spec.schema import Schema

FOLDER = Path(__file__).parent


def build_documents() -> dict[str, Schema]:
    """Each document by its file name."""
    return {"asyncapi.json": build_asyncapi(), "openapi.json": build_openapi()}


def to_text(document: Schema) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    argparse.ArgumentParser("python -m transport.spec", description=__doc__).parse_args()
    for name, document in build_documents().items():
        (FOLDER / name).write_text(to_text(document), encoding="utf-8")
        print(FOLDER / name)


if __name__ == "__main__":
    main()

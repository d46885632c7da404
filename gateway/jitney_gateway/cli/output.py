"""What a person or a program reads: data as a table, JSON or YAML on standard output; sentences on standard error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from enum import StrEnum
from typing import Any, NoReturn

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

# Where no terminal says how wide it is, a row stays one line.
WIDE = 240


class Form(StrEnum):
    """Of -o."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    known = stream.isatty() or "COLUMNS" in os.environ
    return Console(stderr=stderr, width=None if known else WIDE, highlight=False, markup=False)


out, err = _console(stderr=False), _console(stderr=True)


def show(data: Any, form: Form, table: Table) -> None:
    """`table` is what the data looks like to a person."""
    if form is Form.JSON:
        print(json.dumps(data, indent=2))
    elif form is Form.YAML:
        print(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), end="")
    else:
        out.print(table)


def table(*columns: str, rows: Iterable[Iterable[object]] = ()) -> Table:
    """Plain words in columns; what is not there is empty."""
    made = Table(*columns, box=None, pad_edge=False, show_header=any(columns))
    for row in rows:
        made.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    return made


def say(sentence: str) -> None:
    err.print(sentence, soft_wrap=True)


def fail(sentence: str, code: int = 1) -> NoReturn:
    err.print(f"error: {sentence}", style="red", soft_wrap=True)
    sys.exit(code)

"""What the verbs of the command line share: how help looks, exit codes, and options that mean the same everywhere."""

from typing import Annotated, Any, Literal

import typer

# Plain help: the boxes of rich would double the time that help takes.
STYLE: dict[str, Any] = {"rich_markup_mode": None, "add_completion": False}

DONE, YOURS_TO_MEND, INTERRUPTED, READER_GONE, TERMINATED = 0, 2, 130, 141, 143

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute; auto takes a GPU if it can.")]

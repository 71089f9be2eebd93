"""What the verbs of the command line share: how help looks, and options that mean the same everywhere."""

import os
from typing import Annotated, Any

import typer

# Plain help: the boxes of rich would double the time that help takes.
STYLE: dict[str, Any] = {"rich_markup_mode": None, "add_completion": False}

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


def cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

"""What the command line prints: results on stdout, progress and errors on stderr."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress


class Progress(Protocol):
    """Shows on stderr how far the work is."""

    def step(self, what: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` parts of ``what`` are done."""

    def line(self, text: str) -> None:
        """Print a line that stays."""


@contextmanager
def progress(first: str) -> Iterator[Progress]:
    """Yield a bar where stderr is a terminal, else plain lines. The bar shows ``first`` until the first step."""
    if not sys.stderr.isatty():
        yield _PlainLines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as RichProgress

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with RichProgress(*columns, console=Console(stderr=True), transient=True) as bars:
        yield _Bar(bars, first)


class _Bar:
    def __init__(self, bars: "RichProgress", first: str) -> None:
        self._bars = bars
        self._task = bars.add_task(first, total=None)

    def step(self, what: str, done: int, total: int) -> None:
        self._bars.update(self._task, description=what, completed=done, total=total)

    def line(self, text: str) -> None:
        self._bars.console.print(text, markup=False, highlight=False, soft_wrap=True)


class _PlainLines:
    def __init__(self) -> None:
        self._last = ""

    def step(self, what: str, done: int, total: int) -> None:
        if what != self._last:
            self._last = what
            self.line(what)

    def line(self, text: str) -> None:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def error_line(text: object) -> None:
    """Print one line on stderr, whatever line breaks ``text`` holds."""
    sys.stderr.write(as_error(text) + "\n")


def as_error(text: object) -> str:
    """Make ``text`` the one line that tells an error."""
    return f"dsmseg: {' '.join(str(text).split())}"


def document(content: Any) -> None:
    """Print one JSON document on stdout."""
    sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print aligned columns on stdout. Nothing is cut or wrapped, so that it can be searched and copied."""
    widths = [max(len(line[column]) for line in (header, *rows)) for column in range(len(header))]
    for line in (header, *rows):
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        sys.stdout.write("  ".join(cells).rstrip() + "\n")


def facts(content: dict[str, Any]) -> None:
    """Print names and values on stdout, one pair a line; what is nested gets dotted names."""
    pairs = list(_flat(content))
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        sys.stdout.write(f"{name.ljust(width)}  {value}\n")


def _flat(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in content.items():
        name = f"{prefix}{key}".replace("_mm", " (mm)").replace("_gb", " (GB)").replace("_", " ")
        if isinstance(value, dict):
            yield from _flat(value, f"{name}: ")
        elif isinstance(value, list | tuple):
            yield name, ", ".join(_plain(one) for one in value) or "none"
        else:
            yield name, "unknown" if value is None else str(value)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return " / ".join(str(one) for one in value.values())
    if isinstance(value, list | tuple):
        return " to ".join(str(one) for one in value)
    return str(value)

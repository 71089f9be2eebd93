"""The file of a bench's scores: what was scored once is not scored again, wherever a run was stopped."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dsmseg.files import write_atomically

Rows = list[dict[str, Any]]


class ScoreFile:
    """A line for each case of each column, weights and operating points, or for the operating points of weights.

    What a line is of (its identity) and what was found (its rows) are JSON objects.
    """

    def __init__(self, path: Path) -> None:
        """Read what is there; what a killed run left of its last line is taken away."""
        self._path = path
        self._rows: dict[str, Rows] = {}
        if not path.exists():
            return
        text = path.read_text(encoding="utf-8")
        lines = list(_whole_lines(text))
        whole = "".join(json.dumps(one) + "\n" for one in lines)
        if whole != text:
            write_atomically(path, lambda temporary: temporary.write_text(whole, encoding="utf-8"))
        for line in lines:
            rows = line.pop("rows")
            self._rows[_key(line)] = rows

    def has(self, identity: dict[str, Any]) -> bool:
        """Tell whether that is scored."""
        return _key(identity) in self._rows

    def get(self, identity: dict[str, Any]) -> Rows | None:
        """Give the rows of that, if it is scored."""
        return self._rows.get(_key(identity))

    def add(self, identity: dict[str, Any], rows: Rows) -> None:
        """Add a line."""
        line = json.dumps(identity | {"rows": rows})
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        self._rows[_key(identity)] = json.loads(line)["rows"]  # as a later run reads it


def _key(identity: dict[str, Any]) -> str:
    return json.dumps(identity, sort_keys=True)


def _whole_lines(text: str) -> Iterable[dict[str, Any]]:
    for line in text.splitlines():
        try:
            content = json.loads(line)
        except ValueError:
            continue
        if isinstance(content, dict) and "rows" in content:
            yield content

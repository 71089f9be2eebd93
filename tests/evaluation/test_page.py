"""docs/evaluation.md tells what the code does."""

import re
from pathlib import Path

from dsmseg.evaluation import METRICS, Outcome

PAGE = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")


def test_the_table_of_the_policy_is_the_policy() -> None:
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", PAGE, flags=re.MULTILINE)
    told = {title: tuple(cells) for title, *cells in rows if title not in ("metric", "---")}
    expected = {}
    for one in METRICS.values():
        worst = "diagonal of the reference's grid" if one.worst is None else f"{one.worst:g}"
        words = {Outcome.MEASURED: "measured", Outcome.LEFT_OUT: "left out", Outcome.WORST: f"worst: {worst}"}
        expected[one.title] = tuple(words[outcome] for outcome in one.outcomes)
    assert told == expected


def test_the_python_example_runs() -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    exec(compile(snippet, "evaluation.md", "exec"), {})  # noqa: S102

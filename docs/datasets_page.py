"""Write docs/datasets.md from the descriptions of the data sets and the lists of the splits."""

import inspect
from collections import Counter
from pathlib import Path
from string import Template

from dsmseg.datasets.description import Description, Held, Layout, Separation, packaged
from dsmseg.datasets.splits import assignments, counts
from dsmseg.taxonomy import CLASSES

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "datasets.md"
PARTS = ("training", "testing", "inference")


def dataset_table(descriptions: tuple[Description, ...]) -> str:
    """A row a data set: cases, classes, licence, where."""
    rows = [
        [f"`{one.name}`", one.title, str(one.published), _classes(one), one.licence, _link(one)] for one in descriptions
    ]
    return _table(["name", "data set", "labelled cases", "classes", "licence", "from"], rows)


def split_table(descriptions: tuple[Description, ...]) -> str:
    """A row a data set: Table 1's counts, and those of both protocols, with their sums."""
    protocols = [{one.name: _table_1(one) for one in descriptions}, counts("paper"), counts("clean")]
    shown = [one for one in descriptions if any(_table_1(one).values())]
    rows = [[one.title, *(_parts(protocol.get(one.name, {})) for protocol in protocols)] for one in shown]
    sums = [Counter[str]() for _ in protocols]
    for total, protocol in zip(sums, protocols, strict=True):
        for one in shown:
            total.update(protocol.get(one.name, {}))
    rows.append(["**all**", *(_parts(total) for total in sums)])
    return _table(["data set", "Table 1", "`paper`", "`clean`"], rows)


def shared_table(descriptions: tuple[Description, ...]) -> str:
    """A row for each data set that holds scans of another."""
    titles = {one.name: one.title for one in descriptions}
    rows = [
        [one.title, str(held.scans), titles[held.dataset], f"by {held.found}", held.source]
        for one in descriptions
        for held in one.holds
    ]
    return _table(["holds", "scans", "of", "found", "source"], rows)


def setting_table() -> str:
    """What the docstrings say of each setting of a description."""
    texts = [(name, inspect.getdoc(kind)) for name, kind in SECTIONS.items()]
    return "\n\n".join(f"**{name}** {text}" for name, text in texts)


SECTIONS = {"The file.": Description, "`[layout]`": Layout, "`[[separated]]`": Separation, "`[[holds]]`": Held}


def page() -> str:
    """Give the whole page."""
    descriptions = packaged()
    tested = Counter(one.dataset for one in assignments() if one.supervised == "testing")
    template = Template((ROOT / "docs" / "datasets.template.md").read_text(encoding="utf-8"))
    return template.substitute(
        datasets=dataset_table(descriptions),
        splits=split_table(descriptions),
        shared=shared_table(descriptions),
        supervised=", ".join(f"{name} {count}" for name, count in tested.items()),
        settings=setting_table(),
    )


def _classes(one: Description) -> str:
    names = [CLASSES[id - 1].name for id in one.annotated_ids]
    return ", ".join(names) if len(names) <= 6 else f"{len(names)}: {', '.join(names)}"


def _link(one: Description) -> str:
    first = one.where.split(";")[0]
    doi = f", [doi](https://doi.org/{one.doi})" if one.doi else ""
    return f"<{first}>{doi}"


def _table_1(one: Description) -> dict[str, int]:
    return {part: getattr(one.table_1, part) for part in PARTS}


def _parts(counted: dict[str, int]) -> str:
    return ", ".join(f"{part} {counted[part]:,}" for part in PARTS if counted.get(part)) or "-"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

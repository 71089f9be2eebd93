"""Write docs/results.md, and the results in README.md, from what was measured: docs/results/bench."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from string import Template
from typing import Any, get_args

import numpy as np

from dsmseg.evaluation.bench import as_markdown, join
from dsmseg.evaluation.bench.layout import Scored, summarize
from dsmseg.evaluation.bench.page import HEADS, differences, paper_table, table_of, told
from dsmseg.evaluation.bench.tables import Free, Table, load_table
from dsmseg.taxonomy import CLASSES, find
from dsmseg.text import packaged_embeddings

ROOT = Path(__file__).parents[1]
PAGE, README = ROOT / "docs" / "results.md", ROOT / "README.md"
MEASURED = ROOT / "docs" / "results" / "bench"
BEGIN, END = "<!-- docs/results_page.py writes from here -->", "<!-- to here -->"
_STRIDES = (32, 16, 8, 4)


def summary(table: Table) -> dict[str, Any]:
    """Give what all seeds of a table found, and beside it what needs no training, the same for each seed."""
    paths = sorted(MEASURED.glob(f"{table.name}.seed_*.json"))
    found = join(table, [json.loads(path.read_text(encoding="utf-8")) for path in paths])
    trained = [Scored.read(one) for one in found["cases"]]
    seeds = sorted({one.seed for one in trained})
    path = MEASURED / f"{table.name}.free.json"
    content = json.loads(path.read_text(encoding="utf-8"))["cases"] if path.exists() else []
    free = [Scored.read(case | {"seed": seed}) for seed in seeds for case in content]
    return found | summarize(table, [*trained, *free])


def short_table(found: Mapping[str, Any]) -> str:
    """A row a method: AUROC in the body, and near the host organ where that is known, means in %."""
    rows = [one for one in found["rows"] if one["row"] is not None]
    body = []
    for row in rows:
        cells = []
        for column in row["columns"]:
            figures = [column["ours"][name]["mean"] for name in ("auroc", "host_auroc")]
            cells.append(" / ".join("-" if one is None else f"{100 * one:.1f}" for one in figures))
        body.append([row["title"], *cells])
    return table_of(["AUROC in the body / near the host", *map(_titled, rows[0]["columns"])], body)


def seed_table(found: Mapping[str, Any], name: str = "auroc") -> str:
    """A row a method: the mean of each seed, which shows what chance in training makes."""
    rows = [one for one in found["rows"] if one["row"] not in {None, *get_args(Free)}]
    heads = [f"{HEADS[name]}, seeds {_seeds(found)}", *(_titled(column) for column in rows[0]["columns"])]
    body = []
    for row in rows:
        figures = [column["ours"][name]["seeds"].values() for column in row["columns"]]
        body.append([row["title"], *(" / ".join(f"{100 * one:.1f}" for one in seeds) for seeds in figures)])
    return table_of(heads, body)


def answer_table(found: Mapping[str, Any], column: str) -> str:
    """A row for each of those that answered for an unseen kind: for which methods, and with what AUROC."""
    figures: dict[str, list[float]] = defaultdict(list)
    methods: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for one in found["cases"]:
        if one["column"] == column and one["row"] not in get_args(Free):
            answer = " and ".join(one["answered_by"])
            figures[answer].append(one["figures"]["auroc"])
            methods[answer][one["row"]].add(str(one["seed"]))
    titles = {row["row"]: row["title"] for row in found["rows"]}
    rows = [
        [
            answer,
            "; ".join(f"{titles[row]} (seeds {', '.join(sorted(seeds))})" for row, seeds in methods[answer].items()),
            str(len(values)),
            f"{100 * fmean(values):.1f}",
        ]
        for answer, values in sorted(figures.items(), key=lambda pair: -fmean(pair[1]))
    ]
    return table_of([f"answered for {column}", "of", "cases", HEADS["auroc"]], rows)


def anomaly_table(found: Mapping[str, Any]) -> str:
    """A row a method: AUROC of the anomaly, in the body and near the host organ where there is one."""
    rows = [one for one in found["rows"] if one["row"] not in {None, *get_args(Free)}]
    heads = ["AUROC of the anomaly", *(_titled(column) for column in rows[0]["columns"])]
    body = []
    for row in rows:
        cells = []
        for column in row["columns"]:
            near = column["ours"]["anomaly_host_auroc"]
            beside = f"; near the host {told(near)}" if near["n"] else ""
            cells.append(told(column["ours"]["anomaly_auroc"]) + beside)
        body.append([row["title"], *cells])
    return table_of(heads, body)


def rule_table() -> str:
    """A row for each way to answer for an unseen kind: AUROC and FPR95, means over seeds and cases."""
    cases = _lines("gaps_rules")
    rules, columns = (list(dict.fromkeys(one[name] for one in cases)) for name in ("rule", "column"))
    rows = []
    for rule in rules:
        of = {column: [one for one in cases if (one["rule"], one["column"]) == (rule, column)] for column in columns}
        cells = [f"{_mean(several, 'auroc')} / {_mean(several, 'fpr95')}" for several in of.values()]
        rows.append(
            [rule, *cells, f"{100 * fmean(fmean(one['auroc'] for one in several) for several in of.values()):.1f}"]
        )
    return table_of(["AUROC↑ / FPR₉₅↓", *columns, "mean AUROC↑"], rows)


def training_table() -> str:
    """A row for each way to train Stage 2: means over cases, seed by seed; last the mean over the unseen kinds."""
    cases = _lines("gaps_trainings")
    names = list(dict.fromkeys(one["weights"] for one in cases))
    seeds = sorted({one["seed"] for one in cases})
    seen, *unseen = dict.fromkeys(one["column"] for one in cases)

    def means(name: str, column: str, figure: str) -> list[float]:
        of = [
            [one[figure] for one in cases if (one["weights"], one["seed"], one["column"]) == (name, seed, column)]
            for seed in seeds
        ]
        return [fmean(several) for several in of if several]

    def cell(values: Iterable[float]) -> str:
        return " / ".join(f"{100 * one:.1f}" for one in values)

    heads = [f"{seen} AUROC↑", "inside its host", "DSC↑", *(f"{column} AUROC↑" for column in unseen), "mean of unseen"]
    rows = []
    for name in names:
        of_unseen = [means(name, column, "auroc") for column in unseen]
        of_seen = [means(name, seen, figure) for figure in ("auroc", "inside_auroc", "dsc")]
        rows.append([name, *map(cell, (*of_seen, *of_unseen, map(fmean, zip(*of_unseen, strict=True))))])
    return table_of(["Stage 2", *heads], rows)


def prompt_table() -> str:
    """A row for each training and level: the share of tumors that the mask prompt leads to, and of the body."""
    lines = _lines("gaps_prompts")
    columns = list(dict.fromkeys(one["column"] for one in lines))
    rows = []
    for name, level in dict.fromkeys((one["weights"], one["level"]) for one in lines):
        of = [
            [one for one in lines if (one["weights"], one["level"], one["column"]) == (name, level, column)]
            for column in columns
        ]
        rows.append(
            [
                name,
                str(_STRIDES[level - 1]),
                *(f"{_mean(several, 'of_tumor')} of {_mean(several, 'of_body')}" for several in of),
            ]
        )
    return table_of(["Stage 2", "stride", *columns], rows)


def host_mask(founds: Iterable[Mapping[str, Any]]) -> str:
    """The AUROC in the body of the true host organ's mask, a kind after the other, beside DSM's."""
    told_of = {}
    for found in founds:
        rows = {row["row"]: row for row in found["rows"] if row["row"] is not None}
        for mask, ours in zip(rows["host_mask"]["columns"], rows["full"]["columns"], strict=True):
            figures = [column["ours"]["auroc"]["mean"] for column in (mask, ours)]
            if None not in figures:
                told_of[mask["title"]] = " against ".join(f"{100 * one:.1f}" for one in figures)
    return "; ".join(f"{title.lower()}s {figures}" for title, figures in told_of.items())


def inside() -> str:
    """The range of the anomaly's AUROC inside the liver, over bodies and trainings, in %."""
    found = [100 * one["inside_auroc"] for one in _lines("gaps_anomaly")]
    return f"{min(found):.0f} to {max(found):.0f}"


def nearest(tumors: Iterable[str]) -> str:
    """The class whose prompt lies nearest to each tumor's, with the cosine of their centered vectors."""
    vectors = packaged_embeddings() - packaged_embeddings().mean(axis=0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    told = []
    for name in tumors:
        cosines = vectors @ vectors[find(name).id - 1]
        best = int(cosines.argsort()[-2])  # the last is itself
        told.append(f"{name}: {CLASSES[best].name} {cosines[best]:.2f}")
    return "; ".join(told)


def _lines(name: str) -> list[dict[str, Any]]:
    """Read what a benchmark printed of each case, without its sums."""
    lines = (json.loads(line) for line in (MEASURED / f"{name}.jsonl").read_text(encoding="utf-8").splitlines())
    return [one for one in lines if "case" in one]


def _mean(several: Sequence[Mapping[str, Any]], name: str) -> str:
    return f"{100 * fmean(one[name] for one in several):.1f}"


def made_table(founds: Iterable[Mapping[str, Any]]) -> str:
    """A row a file of results: where it comes from."""
    rows = [
        [f"{found['table']}, seed {seed}", str(part["commit"]), part["torch"], str(part["cores"]), part["processor"]]
        for found in founds
        for seed, part in zip(sorted({one["seed"] for one in found["cases"]}), found["parts"], strict=True)
    ]
    return table_of(["table", "commit", "torch", "cores", "instructions"], rows)


def page() -> str:
    """Give the whole page."""
    five, two = (summary(load_table(name)) for name in ("table5", "table2"))
    made = five["made_by"]
    template = Template((ROOT / "docs" / "results.template.md").read_text(encoding="utf-8"))
    return template.substitute(
        preset=made["preset"],
        commits=" and ".join(sorted({str(part["commit"]) for found in (five, two) for part in found["parts"]})),
        lengths=" and ".join(made["lengths"]),
        table_5=as_markdown(five),
        papers_5=paper_table(five),
        seeds_5=seed_table(five),
        differences_5=differences(five, ("auroc", "host_auroc")),
        answers_5=answer_table(five, "Colon Tumor"),
        anomaly_5=anomaly_table(five),
        table_2=as_markdown(two),
        papers_2=paper_table(two),
        seeds_2=seed_table(two),
        differences_2=differences(two, ("auroc", "host_auroc")),
        host_mask=host_mask([five, two]),
        rules=rule_table(),
        trainings=training_table(),
        prompts=prompt_table(),
        inside=inside(),
        nearest=nearest(column.title for column in load_table("table2").columns),
        made=made_table([five, two]),
    )


def readme() -> str:
    """Give README.md with the results as they are now."""
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    five, two = (summary(load_table(name)) for name in ("table5", "table2"))
    return f"{before}{BEGIN}\n\n{short_table(five)}\n\n{short_table(two)}\n\n{END}{after}"


def _seeds(found: Mapping[str, Any]) -> str:
    return ", ".join(str(one) for one in sorted({one["seed"] for one in found["cases"]}))


def _titled(column: Mapping[str, Any]) -> str:
    return f"{column['title']}, {'seen' if column['seen'] else 'unseen'}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    README.write_text(readme(), encoding="utf-8")

"""docs/results.md, and the results in README.md, are what their script makes of docs/results/bench."""

import json

import pytest

from dsmseg.evaluation.bench.tables import load_table

SCRIPT = "results_page.py"


def test_the_committed_page_and_readme_are_what_the_script_makes(script):
    for path, made in ((script.PAGE, script.page()), (script.README, script.readme())):
        is_current = path.read_text(encoding="utf-8") == made
        assert is_current, f"run: python docs/results_page.py ({path.name})"


@pytest.mark.parametrize("name", ["table2", "table5"])
def test_each_table_has_every_built_row_with_three_seeds_and_every_case(script, name):
    table = load_table(name)
    found = script.summary(table)
    runs = {(one["row"], one["seed"], one["column"]) for one in found["cases"]}
    titles = [column.title for column in table.columns]
    assert runs == {(row.key, seed, title) for row in table.built() for seed in (0, 1, 2) for title in titles}
    assert len(found["cases"]) == len(runs) * 6


def test_figures_are_means_over_seeds_then_cases(script, monkeypatch, tmp_path):
    table = load_table("table5")
    for seed, value in ((0, 0.5), (1, 0.7)):
        cases = [
            {"row": "full", "column": "Colon Tumor", "seed": seed, "case": f"body_{number}", "answered_by": ["Colon"],
             "figures": {"auroc": value + number / 10, "fpr95": 0.1, "dsc": 0.0}}
            for number in (0, 1)
        ]  # fmt: skip
        same = ("scale", "recipe", "preset", "lengths", "settings", "unseen", "commit", "torch", "cores", "processor")
        summary = {"table": "table5", "made_by": dict.fromkeys(same, "x"), "cases": cases}
        (tmp_path / f"table5.seed_{seed}.json").write_text(json.dumps(summary))
    monkeypatch.setattr(script, "MEASURED", tmp_path)
    found = script.summary(table)
    assert "| all four: DSM | - / - | 65.0 / - |" in script.short_table(found)
    assert "| all four: DSM |  | 55.0 / 75.0 |" in script.seed_table(found)
    assert "| Colon | all four: DSM (seeds 0, 1) | 4 | 65.0 |" in script.answer_table(found, "Colon Tumor")


def test_what_needs_no_training_stands_beside_every_seed(script):
    found = script.summary(load_table("table5"))
    mask = next(row for row in found["rows"] if row["row"] == "host_mask")
    for column in mask["columns"]:
        assert set(column["ours"]["host_auroc"]["seeds"]) == {"0", "1", "2"}
        assert len(set(column["ours"]["auroc"]["seeds"].values())) == 1  # no chance in training
        assert 0.9 < column["ours"]["auroc"]["mean"] < 1

"""What the tables hold, which trainings they need, and that unseen is unseen."""

from pathlib import Path

import pytest

from dsmseg.datasets.description import packaged
from dsmseg.datasets.splits import parts
from dsmseg.errors import InputError
from dsmseg.evaluation.bench import TABLES, Data, load_table
from dsmseg.evaluation.bench.training_runs import recipe_of, run_of
from dsmseg.synthesis.protocol import plan_cases, protocol, split_rows, stages
from dsmseg.taxonomy import find
from dsmseg.training.reading import load_recipe

BENCH = Path(__file__).parents[3] / "src" / "dsmseg" / "evaluation" / "bench"


@pytest.mark.parametrize("name", TABLES)
def test_every_figure_of_the_paper_is_there(name):
    table = load_table(name)
    figures = [pair for row in table.rows for column in row.paper for pair in column]
    assert len(figures) == {"table2": 132, "table3": 45, "table4": 60, "table5": 36}[name]
    assert all(0 < mean < 100 and 0 < error < 10 for mean, error in figures)
    for column in table.columns:
        assert all(find(one).kind == "tumor" for one in column.classes)


def test_some_figures_read_from_the_paper():
    table2, table5 = load_table("table2"), load_table("table5")
    dsm = next(row for row in table2.rows if row.method == "dsm")
    assert [column.title for column in table2.columns][1] == "Lung Tumor"
    assert dsm.paper[1] == ((76.91, 0.35), (43.72, 1.01), (28.65, 0.32))
    assert dsm.paper[3][2] == (31.52, 0.05)
    by_ablation = {row.ablation: row.paper for row in table5.rows}
    assert by_ablation["without_all"][0][0] == (90.92, 0.14)
    assert by_ablation["without_kmm"][1][2] == (27.31, 0.07)
    assert by_ablation["without_amvp"][0][1] == (21.11, 0.13)
    assert by_ablation["without_dqr"][1][0] == (80.64, 0.04)
    assert by_ablation["without_clip"][1][2] == (29.76, 0.07)
    sml = next(row for row in table2.rows if row.method == "sml")
    assert sml.paper[1][0] == (20.18, 0.39)


def test_a_row_that_is_not_built_cannot_be_asked_for():
    with pytest.raises(InputError, match=r"zept.*There are: "):
        load_table("table2").built(("full", "zept"))
    assert [row.key for row in load_table("table5").built(("full",))] == ["full"]


def test_rows_that_differ_in_stage_2_alone_share_their_stage_1():
    runs = {row.key: run_of(row, load_table("table5")) for row in load_table("table5").built()}
    starts = {key: run.start.name for key, run in runs.items()}
    assert starts == {
        "without_all": "stage_1_without_kmm",
        "without_kmm": "stage_1_without_kmm",
        "without_amvp": "stage_1",
        "without_dqr": "stage_1",
        "without_clip": "stage_1",
        "full": "stage_1",
    }
    assert len({run.name for run in runs.values()}) == 6


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("scale", ["mini", "full"])
def test_the_recipe_of_every_run_is_one(name, scale, tmp_path):
    table, data = load_table(name), Data(scale, tmp_path, tmp_path / "store", tmp_path / "splits.csv")
    whole = load_recipe(BENCH / f"{scale}.yaml")
    for row in table.built():
        for run in run_of(row, table).order():
            recipe = recipe_of(run, BENCH / f"{scale}.yaml", data, 3, tmp_path, [])
            assert (recipe.name, recipe.seed) == (run.name, 3)
            assert recipe.store.protocol == ("supervised" if run.name.endswith("_supervised") else "clean")
            if run.whole:
                both = whole.stage_1.length.count + whole.stage_2.length.count
                assert recipe.stage_2.length.count == both
            else:
                assert len(recipe.stages) == 1


def test_settings_of_the_caller_reach_every_run(tmp_path):
    table, data = load_table("table5"), Data("mini", tmp_path, tmp_path / "store", None)
    run = run_of(table.built(("without_dqr",))[0], table)
    settings = ["stage_1.length=7 steps", "stage_2.length=9 steps", "batch.stored=4"]
    first, second = (recipe_of(one, BENCH / "mini.yaml", data, 0, tmp_path, settings) for one in run.order())
    assert (first.stages[0][1].length.count, second.stages[0][1].length.count) == (7, 9)
    assert first.batch.stored == second.batch.stored == 4
    assert second.ablation == "without_dqr"


def test_no_label_of_an_unseen_kind_and_no_test_scan_reaches_training():
    unseen = {name for column in load_table("table2").columns for name in column.classes}
    assert len(unseen) == 4
    for description in packaged():  # of the real data sets
        if description.table_1.stages:
            assert not unseen & set(description.classes), description.name
    assigned = parts("clean")
    trained = {dataset for (dataset, _), part in assigned.items() if part == "training"}
    assert trained <= {one.name for one in packaged() if one.table_1.stages}
    # Of the virtual ones: no body that is trained on grows one, and none is in two parts.
    assert unseen <= protocol().unseen
    plans = plan_cases("mini", seed=0)
    for plan in plans:
        if plan.part == "training":
            assert not protocol().unseen & set(plan.tumors)
            assert stages()[plan.dataset]
    rows = split_rows(plans)
    assert len({(row.dataset, row.case) for row in rows}) == len(rows)
    assert len({plan.seeds for plan in plans}) == len(plans)

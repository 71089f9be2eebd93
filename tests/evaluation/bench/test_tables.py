"""What the tables hold, which trainings they need, and that unseen is unseen."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from dsmseg.datasets.description import packaged
from dsmseg.datasets.splits import parts
from dsmseg.errors import InputError
from dsmseg.evaluation.bench import TABLES, Data, load_table, training_runs
from dsmseg.evaluation.bench.training_runs import Trainings, run_of
from dsmseg.synthesis.protocol import plan_cases, protocol, split_rows, stages
from dsmseg.taxonomy import find
from dsmseg.training.reading import load_recipe
from dsmseg.training.settings import Length

BENCH = Path(__file__).parents[3] / "src" / "dsmseg" / "evaluation" / "bench"


@pytest.mark.parametrize("name", TABLES)
def test_every_figure_of_the_paper_is_there(name):
    table = load_table(name)
    figures = [pair for row in table.rows for column in row.paper for pair in column]
    assert [row.key for row in table.built()][:2] == ["host_mask", "host_deviation"]
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
    runs = {row.key: run_of(row, load_table("table5")) for row in load_table("table5").built() if row.free is None}
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


@pytest.fixture
def opened(monkeypatch) -> None:
    """Let every stage have an epoch of ten steps."""
    monkeypatch.setattr(training_runs, "open_data", lambda recipe, stage: SimpleNamespace(epoch=lambda batch: 10))


def trainings(scale, folder, *settings) -> Trainings:
    data = Data(scale, folder, folder / "store", folder / "splits.csv")
    return Trainings(BENCH / f"{scale}.yaml", settings, data, folder)


def check(made, run, unseen) -> None:
    for one in run.order():
        made.check(one, 0, unseen)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize(("scale", "both"), [("mini", 1000), ("full", 10_000)])
def test_the_recipe_of_every_run_is_one(name, scale, both, tmp_path, opened):
    table = load_table(name)
    for row in table.built():
        if row.free is not None:  # nothing is trained for it
            continue
        for run in run_of(row, table).order():
            recipe = trainings(scale, tmp_path).of(run, 3)
            assert (recipe.name, recipe.seed) == (run.name, 3)
            assert recipe.store.protocol == ("supervised" if run.name.endswith("_supervised") else "clean")
            assert len(recipe.stages) == 1
            if run.whole:
                assert recipe.stage_2.length == Length(both, "steps")


def test_settings_of_the_caller_reach_every_run(tmp_path):
    table = load_table("table5")
    run = run_of(table.built(("without_dqr",))[0], table)
    made = trainings("mini", tmp_path, "stage_1.length=7 steps", "stage_2.length=9 steps", "batch.stored=4")
    first, second = (made.of(one, 0) for one in run.order())
    assert (first.stages[0][1].length.count, second.stages[0][1].length.count) == (7, 9)
    assert first.batch.stored == second.batch.stored == 4
    assert second.ablation == "without_dqr"


def test_weights_of_another_recipe_are_refused_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(
        training_runs, "open_data", lambda recipe, stage: SimpleNamespace(annotated=frozenset({6}), epoch=None)
    )
    table = load_table("table5")
    run = run_of(table.built(("full",))[0], table)
    made = trainings("mini", tmp_path)
    check(made, run, ["Colon Tumor"])
    folder = made.weights(run.start, 0).parent
    folder.mkdir(parents=True)
    other = trainings("mini", tmp_path, "stage_1.length=3 steps").of(run.start, 0)
    (folder / "recipe.json").write_text(json.dumps(other.record()))
    with pytest.raises(InputError, match="was trained with another 'stage_1'"):
        check(made, run, ["Colon Tumor"])


def test_data_that_label_what_is_to_stay_unseen_are_refused(tmp_path, monkeypatch):
    colon = find("Colon Tumor").id
    monkeypatch.setattr(training_runs, "open_data", lambda recipe, stage: SimpleNamespace(annotated={6, colon}))
    table = load_table("table5")
    with pytest.raises(InputError, match="labels Colon Tumor, which is to stay unseen"):
        check(trainings("mini", tmp_path), run_of(table.built(("full",))[0], table), ["Colon Tumor"])


def test_several_processes_are_the_callers_to_start(tmp_path, monkeypatch):
    monkeypatch.setattr(training_runs, "open_data", lambda recipe, stage: SimpleNamespace(annotated=frozenset()))
    table = load_table("table5")
    made = trainings("mini", tmp_path, "hardware.devices=2")
    with pytest.raises(InputError, match=r"asks for 2 processes.*dsmseg train .*stage_1\.json"):
        check(made, run_of(table.built(("full",))[0], table), [])
    assert load_recipe(tmp_path / "runs" / "seed_0" / "stage_1.json").hardware.devices == 2


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

"""`dsmseg bench`: its options become a plan, and what cannot be run is told in one line before anything is made."""

import json

import pytest

from dsmseg import cli
from dsmseg.evaluation import bench as room
from dsmseg.evaluation.bench import Data


@pytest.fixture
def plans(monkeypatch, tmp_path) -> list[room.Plan]:
    """Give the plans that are run, none of which is."""
    seen = []

    def run_table(plan, progress):
        seen.append(plan)
        (tmp_path / f"{plan.table.name}.md").write_text("the page\n")
        return {"table": plan.table.name}

    data = Data("mini", tmp_path, tmp_path, None)
    monkeypatch.setattr(room, "mini_data", lambda output, **given: data)
    monkeypatch.setattr(room, "run_table", run_table)
    return seen


def test_options_become_a_plan(plans, tmp_path, capsys) -> None:
    options = ["--seeds", "2", "--first-seed", "3", "--rows", "full, without_dqr", "--unseen", "same-kind"]
    assert cli.run(["bench", "table5", "-o", str(tmp_path), *options, "--set", "prompt=organs"]) == 0
    (plan,) = plans
    assert (plan.table.name, plan.all_seeds, plan.rows) == ("table5", range(3, 5), ("full", "without_dqr"))
    assert (plan.unseen, plan.settings) == ("same-kind", ["prompt=organs"])
    assert capsys.readouterr().out.startswith("the page\n")


def test_json_is_the_summary(plans, tmp_path, capsys) -> None:
    assert cli.run(["bench", "table2", "-o", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"table": "table2"}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--unseen", "nobody"], "nobody"),
        (["--data", "."], "--data and --store are for --scale full"),
        (["--scale", "full"], "--scale full needs --data and --store"),
    ],
)
def test_what_cannot_be_run_is_told_in_one_line(plans, tmp_path, capsys, options, told) -> None:
    assert cli.run(["bench", "table5", "-o", str(tmp_path), *options]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error
    assert not plans

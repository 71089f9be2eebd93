"""A run is decided by its recipe, and goes on where it was stopped."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from dsmseg import checkpoint
from dsmseg.errors import InputError, WeightsError
from dsmseg.training import loop, patches
from dsmseg.training.loop import learning_rate, train
from dsmseg.training.recipe import Optimization, load_recipe


def states(directory) -> dict[str, torch.Tensor]:
    return load_file(directory / "state.safetensors")


def assert_same(first, second) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_a_run_that_was_stopped_ends_as_one_that_was_not(recipe_file, tmp_path, monkeypatch) -> None:
    recipe = load_recipe(recipe_file)
    train(recipe, tmp_path / "whole")

    true_step = loop._step

    def stop_at_3(*arguments):
        if arguments[-1] == 3:
            raise KeyboardInterrupt
        return true_step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_step", stop_at_3)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path / "stopped")
    train(recipe, tmp_path / "stopped", resume=True)
    assert_same(states(tmp_path / "whole"), states(tmp_path / "stopped"))


def test_training_learns_a_single_draw(recipe_file, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(loop, "REPORT_EVERY", 5)
    monkeypatch.setattr(patches, "BLOCK", 1)
    gentle = ["optimization.learning_rate=3e-4", "optimization.warm_up=5", "optimization.cool_down=1"]
    train(load_recipe(recipe_file, ["steps=30", "reuse=30", *gentle]), tmp_path / "run")
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["mask"] < 0.7 * log[0]["mask"]


def test_a_folder_that_holds_a_run_is_not_overwritten(recipe_file, tmp_path) -> None:
    recipe = load_recipe(recipe_file, ["steps=2"])
    train(recipe, tmp_path / "run")
    before = states(tmp_path / "run")
    with pytest.raises(InputError, match="holds a run already"):
        train(recipe, tmp_path / "run")
    assert_same(before, states(tmp_path / "run"))


def test_the_state_of_another_network_is_refused(recipe_file, tmp_path) -> None:
    train(load_recipe(recipe_file, ["steps=2"]), tmp_path / "run")
    state = tmp_path / "run" / "state.safetensors"
    tensors = load_file(state)
    del tensors["network/organ_decoder.queries"]
    save_file(tensors, state, metadata={"step": "2"})
    with pytest.raises(WeightsError, match="does not hold the state"):
        train(load_recipe(recipe_file), tmp_path / "run", resume=True)


def test_a_run_becomes_weights_with_a_card(recipe_file, tmp_path) -> None:
    weights = train(load_recipe(recipe_file, ["steps=2"]), tmp_path / "run")
    card = checkpoint.verify(weights)
    assert card.figures == {"steps": 2}
    assert len(card.organs) == 20
    assert card.training_data[0].licence == "CC0-1.0"


def test_the_learning_rate_rises_stays_and_falls_to_zero() -> None:
    plan = Optimization(learning_rate=1.0, warm_up=10, cool_down=20)
    rates = [learning_rate(step, 100, plan) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert set(rates[9:80]) == {1.0}
    assert rates[90] == pytest.approx(0.5)
    assert rates[100] == 0.0


def test_a_run_is_not_resumed_with_another_recipe_but_may_be_made_longer(recipe_file, tmp_path) -> None:
    train(load_recipe(recipe_file, ["steps=2"]), tmp_path / "run")
    for change in ("seed=1", "cross_entropy_weight=1", "optimization.learning_rate=1e-4"):
        with pytest.raises(InputError, match=f"another '{change.split('.')[0].split('=')[0]}'"):
            train(load_recipe(recipe_file, [change]), tmp_path / "run", resume=True)
    longer = load_recipe(recipe_file, ["steps=3", "optimization.cool_down=1"])
    assert checkpoint.verify(train(longer, tmp_path / "run", resume=True)).figures == {"steps": 3}


def test_the_log_of_a_resumed_run_has_each_step_once_with_its_mean(recipe_file, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(loop, "REPORT_EVERY", 2)
    train(load_recipe(recipe_file, ["steps=2"]), tmp_path / "run")
    log = tmp_path / "run" / "log.jsonl"
    log.write_text(log.read_text() + '{"step": 4, "mask": 99.0}\n')  # written after the last state, then killed
    train(load_recipe(recipe_file), tmp_path / "run", resume=True)
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert [entry["step"] for entry in entries] == [2, 4]
    assert entries[1]["mask"] < 50


@pytest.mark.parametrize("setting", ["name=my run", "hu_windows=[[100, -100], [-1000, 1000]]"])
def test_what_the_card_would_refuse_is_refused_before_training(recipe_file, tmp_path, setting) -> None:
    with pytest.raises(InputError, match="Correct this setting"):
        train(load_recipe(recipe_file, [setting]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_whose_recipe_cannot_be_read_is_one_line(recipe_file, tmp_path) -> None:
    train(load_recipe(recipe_file, ["steps=2"]), tmp_path / "run")
    (tmp_path / "run" / "recipe.json").write_text('{"stage": 1}')
    with pytest.raises(InputError, match=r"recipe\.json: 'stage' is no setting"):
        train(load_recipe(recipe_file), tmp_path / "run", resume=True)

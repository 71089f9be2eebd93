"""A run is decided by its recipe, and goes on where it was stopped."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from dsmseg import checkpoint
from dsmseg.errors import InputError, WeightsError
from dsmseg.training import patches
from dsmseg.training.learner import Learner
from dsmseg.training.loop import train
from dsmseg.training.reading import load_recipe


def states(directory) -> dict[str, torch.Tensor]:
    return load_file(directory / "state.safetensors")


def entries(directory) -> list[dict[str, float]]:
    return [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]


def assert_same(first, second) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def die_at(step: int, monkeypatch) -> None:
    """Let the run die in a step, without a chance to save."""
    true_step = Learner.step

    def dying(self, batches, now):
        if now == step:
            raise KeyboardInterrupt
        return true_step(self, batches, now)

    monkeypatch.setattr(Learner, "step", dying)


def test_a_run_that_was_stopped_ends_as_one_that_was_not(recipe_file, tmp_path, monkeypatch) -> None:
    recipe = load_recipe(recipe_file)
    train(recipe, tmp_path / "whole")
    with monkeypatch.context() as patch:
        die_at(3, patch)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path / "stopped")
    train(recipe, tmp_path / "stopped", resume=True)
    assert_same(states(tmp_path / "whole"), states(tmp_path / "stopped"))


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 2])
def test_both_stages_run_one_after_the_other_and_go_on_from_either(stored_recipe, tmp_path, monkeypatch, step) -> None:
    recipe = load_recipe(stored_recipe)
    whole = train(recipe, tmp_path / "whole")
    with monkeypatch.context() as patch:
        seen = []
        true_step = Learner.step

        def dying(self, batches, now):
            if self.number == step and now == 1:
                raise KeyboardInterrupt
            seen.append((self.number, now))
            return true_step(self, batches, now)

        patch.setattr(Learner, "step", dying)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path / "stopped")
    again = train(recipe, tmp_path / "stopped", resume=True)
    assert_same(load_file(whole), load_file(again))
    assert_same(states(tmp_path / "whole"), states(tmp_path / "stopped"))
    card = checkpoint.verify(whole)
    assert (card.stage, card.tumors) == (2, ("Liver Tumor",))
    assert card.organs == ("Right Kidney", "Left Kidney", "Liver")
    assert checkpoint.verify(tmp_path / "whole" / "stored_stage_1.safetensors").stage == 1
    assert [(row["stage"], row["step"]) for row in entries(tmp_path / "stopped")] == [
        (1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)
    ]  # fmt: skip


def test_stage_2_starts_from_the_weights_of_stage_1(stored_recipe, tmp_path) -> None:
    still = load_recipe(stored_recipe, ["stage_2.length=1 step", "stage_2.learning_rate=1e-12"])
    second = load_file(train(still, tmp_path / "run"))
    first = load_file(tmp_path / "run" / "stored_stage_1.safetensors")
    for name, tensor in first.items():
        if "running" not in name and "tracked" not in name:
            torch.testing.assert_close(second[name].float(), tensor.float(), atol=2e-3, rtol=2e-3, msg=name)


@pytest.mark.slow
def test_training_learns_a_single_draw(recipe_file, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(patches, "BLOCK", 1)
    gentle = ["stage_1.learning_rate=3e-4", "stage_1.warm_up=5", "stage_1.cool_down=1", "stage_1.length=30"]
    train(load_recipe(recipe_file, ["reporting.log_every=5", "batch.reuse=30", *gentle]), tmp_path / "run")
    log = entries(tmp_path / "run")
    assert log[-1]["mask"] < 0.7 * log[0]["mask"]


@pytest.mark.slow
def test_tumors_are_learned_from_a_store(stored_recipe, tmp_path) -> None:
    course = "{length: 20 steps, learning_rate: 1.0e-3, warm_up: 3 steps, cool_down: 3 steps}"
    plain = ["augmentation={rotation_chance: 0, scale_chance: 0, elastic_chance: 0, gamma_chance: 0}"]
    more = ["sampling.anywhere=0.01", "sampling.organ=0", "reporting.log_every=5"]
    train(load_recipe(stored_recipe, [f"stage_1={course}", f"stage_2={course}", *plain, *more]), tmp_path / "run")
    rows = [row for row in entries(tmp_path / "run") if row["stage"] == 2 and row["step"] in (5, 20)]
    first, last = (row["tumor_mask"] for row in rows)
    assert last < 0.9 * first


def test_a_folder_that_holds_a_run_is_not_overwritten(recipe_file, tmp_path) -> None:
    recipe = load_recipe(recipe_file, ["stage_1.length=2"])
    train(recipe, tmp_path / "run")
    before = states(tmp_path / "run")
    with pytest.raises(InputError, match="holds a run already"):
        train(recipe, tmp_path / "run")
    assert_same(before, states(tmp_path / "run"))


def test_the_state_of_another_network_is_refused(recipe_file, tmp_path) -> None:
    train(load_recipe(recipe_file, ["stage_1.length=2"]), tmp_path / "run")
    state = tmp_path / "run" / "state.safetensors"
    tensors = load_file(state)
    del tensors["network/organ_decoder.queries"]
    save_file(tensors, state, metadata={"stage": "1", "steps": "2"})
    with pytest.raises(WeightsError, match="does not hold the state"):
        train(load_recipe(recipe_file), tmp_path / "run", resume=True)


def test_a_run_becomes_weights_with_a_card(recipe_file, tmp_path) -> None:
    weights = train(load_recipe(recipe_file, ["stage_1.length=2"]), tmp_path / "run")
    card = checkpoint.verify(weights)
    assert card.figures == {"steps": 2}
    assert len(card.organs) == 20
    assert card.training_data[0].licence == "CC0-1.0"


def test_a_run_is_not_resumed_with_another_recipe_but_may_be_made_longer(recipe_file, tmp_path) -> None:
    train(load_recipe(recipe_file, ["stage_1.length=2"]), tmp_path / "run")
    for change in ("seed=1", "loss.cross_entropy=1", "stage_1.learning_rate=1e-4", "hardware.precision=bf16"):
        with pytest.raises(InputError, match=f"another '{change.split('.')[0].split('=')[0]}"):
            train(load_recipe(recipe_file, [change]), tmp_path / "run", resume=True)
    longer = load_recipe(recipe_file, ["stage_1.length=3", "stage_1.cool_down=1", "hardware.workers=1"])
    assert checkpoint.verify(train(longer, tmp_path / "run", resume=True)).figures == {"steps": 3}


@pytest.mark.slow
def test_the_log_of_a_resumed_run_has_each_step_once_with_its_mean(recipe_file, tmp_path) -> None:
    train(load_recipe(recipe_file, ["stage_1.length=2"]), tmp_path / "run")
    log = tmp_path / "run" / "log.jsonl"
    log.write_text(log.read_text() + '{"stage": 1, "step": 4, "mask": 99.0}\n{"stage": 1, "st')  # then killed
    train(load_recipe(recipe_file), tmp_path / "run", resume=True)
    rows = entries(tmp_path / "run")
    assert [row["step"] for row in rows] == [2, 4]
    assert rows[1]["mask"] < 50
    table = (tmp_path / "run" / "log.csv").read_text().splitlines()
    assert table[0].startswith("stage,step,mask")
    assert len(table) == 3


@pytest.mark.parametrize("setting", ["name=my run", "hu_windows=[[100, -100], [-1000, 1000]]"])
def test_what_the_card_would_refuse_is_refused_before_training(recipe_file, tmp_path, setting) -> None:
    with pytest.raises(InputError, match="Correct this setting"):
        train(load_recipe(recipe_file, [setting]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_whose_recipe_cannot_be_read_is_one_line(recipe_file, tmp_path) -> None:
    train(load_recipe(recipe_file, ["stage_1.length=2"]), tmp_path / "run")
    (tmp_path / "run" / "recipe.json").write_text('{"stage_9": 1}')
    with pytest.raises(InputError, match=r"recipe\.json, line 1: 'stage_9' is no setting"):
        train(load_recipe(recipe_file), tmp_path / "run", resume=True)

"""Validation in training: it changes nothing that is learned, and keeps the best and the last weights."""

import csv
import json
import signal

import pytest
import torch
from safetensors.torch import load_file

from dsmseg import checkpoint
from dsmseg.errors import InputError
from dsmseg.evaluation.validation import Validation
from dsmseg.training import validation
from dsmseg.training.interruption import StoppedError
from dsmseg.training.learner import Learner
from dsmseg.training.loop import train
from dsmseg.training.reading import load_recipe
from dsmseg.training.validation import Validator, best_of

EVERY_STEP = ["validation={every: 1, cases: 1}"]
SHORT = ["stage_1.length=2 steps", "stage_2.length=2 steps"]


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


@pytest.fixture
def scores(monkeypatch):
    """Let each validation have the next of some scores, whatever the weights."""
    given: list[float] = []

    def validate(network, card, cases, runtime, **_):
        return Validation(len(cases), organs={"Liver": given.pop(0)})

    monkeypatch.setattr(validation, "validate", validate)
    return given


def validations(directory) -> list[tuple[int, int, float]]:
    found = entries(directory)
    return [(row["stage"], row["step"], row["validation score"]) for row in found if "validation score" in row]


@pytest.mark.slow
def test_a_run_with_validation_learns_what_one_without_does_and_its_batch_norms_gather_the_same(held_out, tmp_path):
    train(load_recipe(held_out, SHORT), tmp_path / "without")
    train(load_recipe(held_out, [*SHORT, *EVERY_STEP]), tmp_path / "with")
    assert_same(states(tmp_path / "without"), states(tmp_path / "with"))  # weights, statistics, moments, random state
    assert_same(load_file(tmp_path / "without/stored.safetensors"), load_file(tmp_path / "with/stored.safetensors"))
    rows = validations(tmp_path / "with")
    assert [row[:2] for row in rows] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    last = next(row for row in reversed(entries(tmp_path / "with")) if "validation score" in row)
    assert {"validation dice of organs", "validation dice of Liver"} <= last.keys()
    with (tmp_path / "with" / "log.csv").open() as table:
        assert [row["validation score"] != "" for row in csv.DictReader(table)].count(True) == 4
    card = checkpoint.load(tmp_path / "with" / "stored.safetensors").card
    assert set(card.operating_points) == {"Liver Tumor"}
    assert (card.point("Liver Tumor").cases, card.point("Liver Tumor").lesions) == (2, 1)
    assert card.figures["held-out cases"]["cases"] == 2


def test_weights_are_tried_without_a_change_of_network_statistics_modes_or_random_numbers(held_out, monkeypatch):
    recipe = load_recipe(held_out, EVERY_STEP)
    validator = Validator(recipe, validation.open_held_out(recipe), torch.device("cpu"))
    validator.begin(held_out.parent / "x_best.safetensors", goes_on=False)
    loaded = checkpoint.load("starter")
    before, random = {name: one.clone() for name, one in loaded.state.items()}, torch.get_rng_state()
    figures = validator.try_out(loaded.state, loaded.card)
    assert torch.equal(torch.get_rng_state(), random)
    assert_same(before, loaded.state)
    assert figures == validator.try_out(loaded.state, loaded.card)


def test_the_best_weights_are_those_of_the_highest_score_and_of_equal_ones_the_first(held_out, scores, tmp_path):
    scores += [0.2, 0.5, 0.5, 0.9, 0.9]
    train(load_recipe(held_out, ["stage_1.length=3 steps", "stage_2=null", *EVERY_STEP]), tmp_path / "run")
    card = checkpoint.verify(tmp_path / "run" / "stored_best.safetensors")
    assert (card.figures["steps"], card.figures["validation"]["score"]) == (2, 0.5)
    assert checkpoint.verify(tmp_path / "run" / "stored.safetensors").figures["steps"] == 3


def test_who_goes_on_keeps_the_best_so_far_and_logs_each_validation_once(held_out, scores, tmp_path, monkeypatch):
    recipe = load_recipe(held_out, ["stage_1.length=4 steps", "stage_2=null", *EVERY_STEP])
    scores += [0.1, 0.7, 0.3]
    with monkeypatch.context() as patch:
        die_at(3, patch)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path / "run")  # the last state is that of step 2
    scores += [0.3, 0.4, 0.4, 0.7]
    train(recipe, tmp_path / "run", resume=True)
    assert validations(tmp_path / "run") == [(1, 1, 0.1), (1, 2, 0.7), (1, 3, 0.3), (1, 4, 0.4)]
    assert checkpoint.load(tmp_path / "run" / "stored_best.safetensors").card.figures["steps"] == 2


def test_what_an_earlier_run_has_left_as_its_best_does_not_count_for_a_new_one(held_out, scores, tmp_path):
    recipe = load_recipe(held_out, ["stage_1.length=1 step", "stage_2=null", *EVERY_STEP])
    scores += [0.9, 0.9, 0.9]
    train(recipe, tmp_path / "run")
    (tmp_path / "run" / "state.safetensors").unlink()
    scores += [0.2, 0.2, 0.2]
    train(recipe, tmp_path / "run")
    assert checkpoint.load(tmp_path / "run" / "stored_best.safetensors").card.figures["validation"]["score"] == 0.2


def test_weights_are_tried_every_so_many_steps_on_so_many_cases(held_out, monkeypatch, tmp_path):
    seen = []

    def validate(network, card, cases, runtime, **_):
        seen.append((card.figures["steps"], len(cases), network.training))
        return Validation(len(cases))

    monkeypatch.setattr(validation, "validate", validate)
    plan = "validation={every: 2, cases: 1}"
    train(load_recipe(held_out, ["stage_1.length=3 steps", "stage_2=null", plan]), tmp_path / "run")
    assert seen == [(2, 1, False), (3, 2, False), (2, 2, False)]  # at the end the last and the best, on all cases


def test_averaged_weights_are_tried_not_those_of_the_last_step(held_out, scores, tmp_path, monkeypatch):
    tried = []
    true_try = Validator.try_out

    def trying(self, state, card):
        tried.append(state)
        return true_try(self, state, card)

    monkeypatch.setattr(Validator, "try_out", trying)
    scores += [0.5, 0.5, 0.5]
    train(load_recipe(held_out, ["stage_1.length=1 step", "stage_2=null", *EVERY_STEP]), tmp_path / "run")
    state = states(tmp_path / "run")
    name = next(name for name in tried[0] if not torch.equal(state[f"network/{name}"], state[f"average/{name}"]))
    assert torch.equal(tried[0][name], state[f"average/{name}"])


def test_the_log_has_the_gradient_norm_before_clipping(recipe_file, tmp_path):
    train(load_recipe(recipe_file, ["stage_1.clip_norm=1e-3", "stage_1.length=2 steps"]), tmp_path / "run")
    assert all(row["gradient norm"] > 1e-2 for row in entries(tmp_path / "run"))


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("validation={}", "no case for validation"),
        ("validation={scans: nowhere}", "nowhere"),
        ("validation={scans: a, store: {path: b}}", "leave one out"),
        ("validation={every: -1}", "greater than or equal to 0"),
    ],
)
def test_held_out_cases_that_are_not_there_are_told_before_the_first_step(stored_recipe, tmp_path, setting, told):
    with pytest.raises(InputError) as caught:
        train(load_recipe(stored_recipe, [setting]), tmp_path / "run")
    assert told in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_validation_needs_a_place_to_take_cases_from(recipe_file):
    with pytest.raises(InputError, match="neither scans nor a store"):
        load_recipe(recipe_file, ["validation={every: 10}"])


def test_validation_does_not_decide_what_is_learned_so_a_run_goes_on_with_another(held_out, scores, tmp_path):
    plain = ["stage_1.length=1 step", "stage_2=null"]
    train(load_recipe(held_out, plain), tmp_path / "run")
    scores += [0.5, 0.5, 0.5]
    train(load_recipe(held_out, ["stage_1.length=2 steps", "stage_2=null", *EVERY_STEP]), tmp_path / "run", resume=True)
    assert validations(tmp_path / "run") == [(1, 2, 0.5)]


def test_the_best_lies_beside_the_last(tmp_path):
    assert best_of(tmp_path / "mini_stage_1.safetensors") == tmp_path / "mini_stage_1_best.safetensors"


def test_who_is_asked_to_stop_while_the_last_weights_are_tried_stops_and_goes_on_there(held_out, monkeypatch, tmp_path):
    recipe = load_recipe(held_out, ["stage_1.length=1 step", "stage_2=null", "validation={every: 0, cases: 1}"])

    def interrupted(network, card, cases, runtime, *, progress, **_):
        signal.raise_signal(signal.SIGTERM)
        progress(1, len(cases))

    with monkeypatch.context() as patch:
        patch.setattr(validation, "validate", interrupted)
        with pytest.raises(StoppedError, match="stopped after step 1 of 1"):
            train(recipe, tmp_path / "run")
    monkeypatch.setattr(validation, "validate", lambda network, card, cases, runtime, **_: Validation(len(cases)))
    train(recipe, tmp_path / "run", resume=True)
    assert checkpoint.verify(tmp_path / "run" / "stored.safetensors").figures["held-out cases"]["cases"] == 2

"""What a recipe can ask for beyond the two stages: a start from weights, frozen parts, few classes, less memory."""

import json
import sys
from typing import ClassVar

import pytest
import torch
from matplotlib.image import imread
from safetensors.torch import load_file

from dsmseg import checkpoint, cli
from dsmseg.errors import InputError, WeightsError
from dsmseg.model import DSM, DSMOutput
from dsmseg.model.losses import PartialLabels
from dsmseg.taxonomy import find
from dsmseg.training.learner import Learner
from dsmseg.training.loop import train
from dsmseg.training.patches import Batch
from dsmseg.training.pictures import draw_answer
from dsmseg.training.reading import load_recipe

LIVER = find("Liver").id - 1


def entries(directory) -> list[dict[str, float]]:
    return [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]


def test_a_user_s_data_fine_tune_packaged_weights_in_one_command(stored_recipe, tmp_path) -> None:
    frozen = "freeze=[backbone, organ_decoder, organ_head, presence_head]"
    readings = "readings={half_masks: false, background_queries: 0, response: residual}"
    settings = ["start=starter", "stage_1=null", "classes=[Liver Tumor, liver]", readings, frozen]
    changes = [part for setting in settings for part in ("--set", setting)]
    assert cli.run(["train", str(stored_recipe), "-o", str(tmp_path / "tuned"), *changes]) == 0
    card = checkpoint.verify(tmp_path / "tuned" / "stored.safetensors")
    assert (card.organs, card.tumors) == (("Liver",), ("Liver Tumor",))
    assert "LIDC-IDRI-0001" in [one.name for one in card.training_data]
    before = checkpoint.load("starter").state
    after = load_file(tmp_path / "tuned" / "stored.safetensors")
    for name, tensor in before.items():
        assert torch.equal(after[name].float(), tensor.float()), name  # all that Stage 1 has is frozen
    assert any(name.startswith("tumor_decoder") for name in after)


def test_the_deviation_branch_is_told_labelled_organs_in_the_share_of_patches_that_is_asked_for(
    stored_recipe, tmp_path, monkeypatch
) -> None:
    told = []

    def spy(self, image, organs=None):
        told.append(organs)
        return forward(self, image, organs)

    forward = DSM.forward
    monkeypatch.setattr(DSM, "forward", spy)
    train(load_recipe(stored_recipe, ["stage_2.told_organs=1", "stage_2.length=2 steps"]), tmp_path / "run")
    in_stage_2 = [one for one in told if one is not None]
    assert len(in_stage_2) == 2
    items = {item for item, _ in in_stage_2[0]}
    assert {(item, LIVER) for item in items} < set(in_stage_2[0])
    assert len(in_stage_2[0]) < 25 * len(items)  # not all organs are labelled
    assert in_stage_2[0][0, LIVER].dtype == torch.bool


def test_the_deviation_branch_learns_alone_in_the_first_steps_of_stage_2(stored_recipe, tmp_path, monkeypatch) -> None:
    asked = []

    def spy(self, image, *told, branch_alone=False):
        asked.append(branch_alone)
        assert not branch_alone or (0, LIVER) in told[0] or (1, LIVER) in told[0]  # the labelled organs
        return forward(self, image, *told, branch_alone=branch_alone)

    forward = DSM.forward
    monkeypatch.setattr(DSM, "forward", spy)
    course = ["stage_2.branch_first=2 steps", "stage_1.length=1", "reporting.log_every=1"]
    train(load_recipe(stored_recipe, course), tmp_path / "run")
    assert asked == [False, True, True, False]
    stage_2 = [entry for entry in entries(tmp_path / "run") if entry["stage"] == 2]
    assert [("mask" in entry, "tumor_in_organs" in entry) for entry in stage_2] == [
        (False, True), (False, True), (True, True),
    ]  # fmt: skip


def test_stage_2_goes_on_from_organ_queries_of_its_own_readings_alone(stored_recipe, tmp_path) -> None:
    settings = ["start=starter", "stage_1=null"]
    with pytest.raises(WeightsError, match="trained with other readings") as caught:
        train(load_recipe(stored_recipe, settings), tmp_path / "run")
    assert "--set readings.half_masks=false --set readings.background_queries=0" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_weights_of_another_preset_are_no_start(stored_recipe, tmp_path) -> None:
    settings = ["start=starter", "preset=base", "hu_windows=[[-175, 250]]", "patch.size=[64, 32, 32]", "stage_2=null"]
    with pytest.raises(WeightsError, match="is of preset starter, the recipe of base"):
        train(load_recipe(stored_recipe, settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_recomputed_activations_learn_the_same(stored_recipe, tmp_path) -> None:
    plain = ["patch.size=[64,32,32]"]
    train(load_recipe(stored_recipe, plain), tmp_path / "plain")
    train(load_recipe(stored_recipe, [*plain, "hardware.checkpointing=true"]), tmp_path / "again")
    names = [set(load_file(tmp_path / name / "stored.safetensors")) for name in ("plain", "again")]
    assert names[0] == names[1]
    for one, other in zip(entries(tmp_path / "plain"), entries(tmp_path / "again"), strict=True):
        assert other["mask"] == pytest.approx(one["mask"], rel=1e-2)


@pytest.mark.slow
def test_a_dry_run_tells_what_it_would_be_and_keeps_nothing(stored_recipe, tmp_path, capsys) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert cli.run(["train", str(stored_recipe), "-o", str(tmp_path / "run"), "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["stage 1"]["cases"] == {"lits": 3}
    assert told["stage 1"]["classes"] == ["Right Kidney", "Left Kidney", "Liver"]
    assert told["stage 2"]["classes"][-1] == "Liver Tumor"
    assert told["stage 2"]["seconds_a_step"] > 0
    assert told["peak_memory_gb"] > 0.1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_pictures_are_drawn_and_change_nothing(stored_recipe, tmp_path) -> None:
    train(load_recipe(stored_recipe), tmp_path / "plain")
    train(load_recipe(stored_recipe, ["reporting.pictures_every=2"]), tmp_path / "drawn")
    names = [one.name for one in sorted((tmp_path / "drawn" / "pictures").iterdir())]
    assert names == ["stage_1_step_2.png", "stage_2_step_2.png"]
    first, second = (load_file(tmp_path / name / "stored.safetensors") for name in ("plain", "drawn"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_pictures_have_the_patient_s_right_on_the_left(tmp_path) -> None:
    image = torch.zeros(1, 2, 32, 32, 32)
    image[:, :, 16:] = 1.0  # in RAS, the patient's right
    labels = PartialLabels(torch.zeros(1, 45, 32, 32, 32, dtype=torch.bool), torch.zeros(1, 45, dtype=torch.bool))
    nothing = torch.zeros(1, 25, 32, 32, 32)
    output = DSMOutput(nothing, torch.zeros(1, 25), [], torch.zeros(1, 8, 8, 8), None, None)
    draw_answer(tmp_path / "picture.png", Batch(image, labels, ("one",)), output)
    drawn = imread(tmp_path / "picture.png")[..., :3].mean(axis=-1)
    first = drawn[60:200, : drawn.shape[1] // 3]
    assert first[:, 60:100].mean() > 0.9
    assert first[:, -100:-60].mean() < 0.1


@pytest.mark.slow
def test_tensorboard_gets_what_the_log_gets_once(stored_recipe, tmp_path, monkeypatch) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    recipe = load_recipe(stored_recipe, ["reporting.tensorboard=true", "stage_2.length=5"])
    true_step = Learner.step

    def stopping(self, batches, now):
        if self.number == 2 and now == 3:
            raise KeyboardInterrupt  # step 3 is told already, and the last state is that of step 2
        return true_step(self, batches, now)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", stopping)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path / "run")
    train(recipe, tmp_path / "run", resume=True)
    for stage in (1, 2):
        told = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard" / f"stage_{stage}")).Reload()
        logged = [(one["step"], one["mask"]) for one in entries(tmp_path / "run") if one["stage"] == stage]
        assert [one.step for one in told.Scalars("mask")] == [step for step, _ in logged]
        assert [one.value for one in told.Scalars("mask")] == pytest.approx([value for _, value in logged], rel=1e-4)


def test_mlflow_gets_it_too_or_is_missed_before_the_first_step(stored_recipe, tmp_path, monkeypatch) -> None:
    class Tracker:
        seen: ClassVar[list[tuple[int, dict[str, float]]]] = []

        @classmethod
        def log_metrics(cls, values, step):
            cls.seen.append((step, values))

    asked = load_recipe(stored_recipe, ["reporting.mlflow=true", "stage_2=null"])
    monkeypatch.setitem(sys.modules, "mlflow", Tracker)
    train(asked, tmp_path / "run")
    assert [step for step, _ in Tracker.seen] == [1, 2, 3]
    assert "stage 1/mask" in Tracker.seen[0][1]
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(InputError, match="needs MLflow"):
        train(asked, tmp_path / "other")


def test_a_preset_whose_text_encoder_is_not_packaged_asks_for_its_table(stored_recipe, tmp_path) -> None:
    settings = ["preset=base", "hu_windows=[[-175, 250]]", "patch.size=[64, 32, 32]"]
    with pytest.raises(InputError, match="needs text embeddings of width 512"):
        train(load_recipe(stored_recipe, settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()

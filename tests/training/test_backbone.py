"""A run may start from an imported backbone, and its weights say so."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from dsmseg import checkpoint
from dsmseg.checkpoint import BackboneCard
from dsmseg.errors import InputError, WeightsError
from dsmseg.model import PRESETS
from dsmseg.model.swin_unetr import SwinUNETR
from dsmseg.training import learner, recipe
from dsmseg.training.loop import train
from dsmseg.training.reading import load_recipe

TINY = replace(PRESETS["base"], feature_size=12, input_channels=2, query_width=32, feed_forward_width=32, state=2)
STANDING_STILL = ["stage_1.length=1", "preset=base", "stage_1.learning_rate=1e-30", "stage_1.weight_decay=0"]


@pytest.fixture
def backbone(tmp_path, monkeypatch):
    """A file to start from, for a preset that is made as small as it."""
    for module in (learner, recipe):
        monkeypatch.setattr(module, "PRESETS", {**PRESETS, "base": TINY})
    torch.manual_seed(5)
    state = SwinUNETR(input_channels=2, feature_size=12).state_dict()
    card = BackboneCard(
        name="swin",
        feature_size=12,
        input_channels=2,
        holds="encoder and decoder",
        source="monai.pt",
        source_sha256="a" * 64,
        left_away=(),
        licence="CC-BY-4.0",
    )
    checkpoint.save_backbone(tmp_path / "swin.safetensors", state, card)
    return tmp_path / "swin.safetensors"


def test_training_starts_from_the_backbone_that_the_recipe_names_and_its_card_tells(recipe_file, backbone, tmp_path):
    weights = train(load_recipe(recipe_file, [*STANDING_STILL, f"backbone={backbone}"]), tmp_path / "run")
    trained = checkpoint.load(weights)
    start = checkpoint.load_backbone(backbone).named_parameters()
    moved = [name for name, one in start if not torch.equal(trained.state[f"backbone.{name}"], one.half().float())]
    assert moved == []
    body, pretraining = trained.card.training_data
    assert body.licence == "CC0-1.0"
    assert (pretraining.name, pretraining.licence) == ("backbone monai.pt", "CC-BY-4.0")
    assert "a" * 64 in pretraining.source


def test_a_run_does_not_go_on_from_another_backbone(recipe_file, backbone, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "state.safetensors").touch()
    before = load_recipe(recipe_file, ["preset=base"])
    (tmp_path / "run" / "recipe.json").write_text(before.model_dump_json())
    with pytest.raises(InputError, match="another 'backbone'"):
        train(load_recipe(recipe_file, ["preset=base", f"backbone={backbone}"]), tmp_path / "run", resume=True)


def test_a_run_goes_on_from_its_state_and_not_again_from_the_backbone(recipe_file, backbone, tmp_path, monkeypatch):
    def add_one(self, *_: object) -> dict[str, float]:
        for parameter in self.network.parameters():
            parameter.data += 1
        return {"mask": 0.0}

    monkeypatch.setattr(learner.Learner, "step", add_one)
    for steps in (1, 2):
        settings = ["preset=base", f"backbone={backbone}", f"stage_1.length={steps}", "reporting.state_every=1"]
        train(load_recipe(recipe_file, settings), tmp_path / "run", resume=True)
    reached = load_file(tmp_path / "run" / "state.safetensors")
    for name, start in checkpoint.load_backbone(backbone).named_parameters():
        torch.testing.assert_close(reached[f"network/backbone.{name}"], start.detach() + 2)


def test_a_backbone_that_does_not_fit_is_refused_before_anything_is_written(recipe_file, backbone, tmp_path):
    for setting, told in (
        ([f"backbone={backbone}"], "preset does not have"),
        (["preset=base", "backbone=gone.safetensors"], "does not exist"),
        (["preset=base", "backbone=starter"], "not a backbone"),
    ):
        with pytest.raises(WeightsError, match=told):
            train(load_recipe(recipe_file, setting), tmp_path / "run")
        assert not (tmp_path / "run").exists()

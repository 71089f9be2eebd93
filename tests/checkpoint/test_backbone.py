"""A backbone is kept as it was, and is never taken for a segmenter."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from dsmseg import checkpoint
from dsmseg.checkpoint import BackboneCard
from dsmseg.errors import WeightsError
from dsmseg.model.conv_unet import ConvUNet
from dsmseg.model.swin_unetr import SwinUNETR


def a_card(**changes) -> BackboneCard:
    fields = {
        "name": "tiny",
        "feature_size": 12,
        "input_channels": 1,
        "holds": "encoder and decoder",
        "source": "monai.pt",
        "source_sha256": "0" * 64,
        "left_away": (),
        "licence": "Apache-2.0",
    }
    return BackboneCard.model_validate(fields | changes)


@pytest.fixture(scope="module")
def network() -> SwinUNETR:
    torch.manual_seed(0)
    return SwinUNETR(input_channels=1, feature_size=12)


@pytest.fixture(scope="module")
def saved(network, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("backbone") / "tiny.safetensors"
    checkpoint.save_backbone(path, network.state_dict(), a_card())
    return path


def assert_same(first, second) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_a_backbone_comes_back_to_the_bit_ready_to_be_used(network, saved):
    restored = checkpoint.load_backbone(saved)
    assert not restored.training
    assert_same(restored.state_dict(), network.state_dict())


def test_verify_accepts_it_and_gives_its_card(saved):
    card = checkpoint.verify(saved)
    assert card == a_card(sha256=card.sha256, created=card.created)
    assert checkpoint.read(saved).card == checkpoint.read_backbone_card(saved) == card


def test_it_is_no_segmenter(saved):
    with pytest.raises(WeightsError, match=r"backbone alone.*--set backbone"):
        checkpoint.load(saved)


def test_a_segmenter_is_no_backbone():
    for read in (checkpoint.load_backbone, checkpoint.read_backbone_card):
        with pytest.raises(WeightsError, match="whole network, not a backbone"):
            read("starter")


def test_one_flipped_byte_is_found(saved, tmp_path):
    content = bytearray(saved.read_bytes())
    content[-1] ^= 1
    (tmp_path / "tiny.safetensors").write_bytes(content)
    (tmp_path / "tiny.json").write_bytes(saved.with_suffix(".json").read_bytes())
    with pytest.raises(WeightsError, match="sha256"):
        checkpoint.load_backbone(tmp_path / "tiny.safetensors")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"feature_size": 24}, "another shape"),
        ({"input_channels": 2}, "another shape"),
        ({"holds": "encoder"}, "unknown"),
    ],
)
def test_a_card_that_describes_another_network_is_refused(network, tmp_path, changes, told):
    path = tmp_path / "tiny.safetensors"
    checkpoint.save_backbone(path, network.state_dict(), a_card(**changes))
    with pytest.raises(WeightsError, match=told):
        checkpoint.verify(path)


def test_a_network_to_train_is_filled_whole(network, saved):
    other = SwinUNETR(input_channels=1, feature_size=12)
    checkpoint.fill_backbone(other, saved)
    assert_same(other.state_dict(), network.state_dict())
    assert other.training


def test_an_encoder_fills_the_encoder_and_leaves_the_decoder_as_it_was(network, tmp_path):
    encoder = {name: one for name, one in network.state_dict().items() if name.startswith("swinViT.")}
    checkpoint.save_backbone(tmp_path / "encoder.safetensors", encoder, a_card(holds="encoder"))
    other = SwinUNETR(input_channels=1, feature_size=12)
    before = {name: one.clone() for name, one in other.state_dict().items()}
    checkpoint.fill_backbone(other, tmp_path / "encoder.safetensors")
    assert_same(other.state_dict(), before | encoder)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (SwinUNETR(input_channels=2, feature_size=12), "for 1 input channel; .*for 2 input channels"),
        (SwinUNETR(input_channels=1, feature_size=24), "feature size 12 .*feature size 24"),
        (ConvUNet(input_channels=1, channels=(4, 4, 4, 8, 8, 8)), "preset does not have.*paper or base"),
    ],
)
def test_a_network_that_it_does_not_fit_is_refused_and_left_as_it_was(saved, other, told):
    before = {name: one.clone() for name, one in other.state_dict().items()}
    with pytest.raises(WeightsError, match=told):
        checkpoint.fill_backbone(other, saved)
    assert_same(other.state_dict(), before)


@pytest.mark.parametrize(
    "change",
    [
        {"feature_size": 13},
        {"feature_size": 0},
        {"input_channels": 0},
        {"holds": "decoder"},
        {"kind": "segmenter"},
        {"name": "a b"},
        {"surprise": 1},
        {"source_sha256": "abc"},
    ],
)
def test_a_card_of_what_cannot_be_is_refused(change):
    with pytest.raises(ValidationError):
        a_card(**change)

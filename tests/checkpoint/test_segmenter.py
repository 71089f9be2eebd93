"""Weights come in through one door, and only whole, known and fitting ones do."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from pydantic import ValidationError

from dsmseg import checkpoint
from dsmseg.checkpoint import Card, segmenter, storage
from dsmseg.errors import WeightsError
from dsmseg.model import PRESETS, build

TINY = replace(PRESETS["starter"], channels=(4, 4, 4, 8, 8, 8), query_width=32, feed_forward_width=32, state=2, heads=4)


def a_card(**changes) -> Card:
    fields = {
        "name": "tiny",
        "version": "1",
        "preset": "starter",
        "stage": 1,
        "organs": ("Liver", "Spleen"),
        "tumors": (),
        "text_encoder": "minilm",
        "spacing_mm": (3, 3, 3),
        "hu_windows": ((-160, 240), (-1000, 600)),
        "window": (96, 96, 96),
        "training_data": ({"name": "phantoms", "licence": "CC0", "source": "dsmseg"},),
        "licence": "Apache-2.0",
        "figures": {"dice": {"Liver": 0.9}},
    }
    return Card.model_validate(fields | changes)


@pytest.fixture
def tiny_preset(monkeypatch):
    monkeypatch.setattr(segmenter, "PRESETS", {**PRESETS, "starter": TINY})
    torch.manual_seed(0)
    return TINY


@pytest.fixture
def saved(tiny_preset, tmp_path) -> Path:
    path = tmp_path / "tiny.safetensors"
    checkpoint.save(path, build(replace(tiny_preset, stage=1)).state_dict(), a_card())
    return path


def rewrite(path: Path, change) -> None:
    """Change the tensors, with a card that vouches for them."""
    loaded = checkpoint.load(path)
    change(loaded.state)
    checkpoint.save(path, loaded.state, loaded.card)


@pytest.mark.parametrize("stage", [1, 2])
def test_a_saved_network_comes_back_with_the_same_answers_up_to_fp16(tiny_preset, tmp_path, stage):
    network = build(replace(tiny_preset, stage=stage), torch.randn(45, tiny_preset.text_width)).eval()
    network.load_state_dict({name: tensor.half().to(tensor.dtype) for name, tensor in network.state_dict().items()})
    path = tmp_path / "tiny.safetensors"
    checkpoint.save(path, network.state_dict(), a_card(stage=stage))

    restored = checkpoint.network(checkpoint.load(path))

    assert not restored.training
    assert {parameter.dtype for parameter in restored.parameters()} == {torch.float32}
    image = torch.rand(1, 2, 32, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(restored(image).organ_logits, network(image).organ_logits)


def test_stage_1_weights_hold_stage_1_only(saved):
    assert not any("tumor" in name or "text" in name for name in checkpoint.load(saved).state)


def test_floating_tensors_are_stored_as_fp16_and_read_as_fp32_while_integers_stay(tmp_path):
    path = tmp_path / "any.safetensors"
    checkpoint.save(path, {"a": torch.ones(2), "b": torch.arange(3)}, a_card())
    assert {name: one.dtype for name, one in safetensors.torch.load_file(path).items()} == {
        "a": torch.float16,
        "b": torch.int64,
    }
    assert {name: one.dtype for name, one in checkpoint.load(path).state.items()} == {
        "a": torch.float32,
        "b": torch.int64,
    }


def test_views_that_share_memory_are_stored_each_for_itself(tmp_path):
    path = tmp_path / "any.safetensors"
    whole = torch.arange(6.0).reshape(2, 3)
    checkpoint.save(path, {"whole": whole, "turned": whole.T}, a_card())
    assert torch.equal(checkpoint.load(path).state["turned"], whole.T)


def test_the_card_survives_the_round_trip_and_names_the_sha256(saved):
    card = checkpoint.load(saved).card
    assert card == a_card(sha256=card.sha256, created=card.created)
    assert len(card.sha256) == 64


def test_equal_weights_give_equal_files(saved, tmp_path):
    loaded = checkpoint.load(saved)
    again = tmp_path / "again.safetensors"
    checkpoint.save(again, loaded.state, loaded.card)
    assert again.read_bytes() == saved.read_bytes()


def test_verify_accepts_what_was_saved(saved):
    assert checkpoint.verify(saved).name == "tiny"


@pytest.mark.parametrize("position", [0, 9, -1])
def test_one_flipped_byte_is_found(saved, position):
    content = bytearray(saved.read_bytes())
    content[position] ^= 1
    saved.write_bytes(content)
    with pytest.raises(WeightsError, match="sha256"):
        checkpoint.load(saved)


def test_a_half_downloaded_file_is_found(saved):
    saved.write_bytes(saved.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="sha256"):
        checkpoint.load(saved)


def test_a_file_of_another_format_is_refused_even_when_the_card_vouches_for_it(saved):
    import hashlib

    saved.write_bytes(b"not tensors")
    card_path = saved.with_suffix(".json")
    card = json.loads(card_path.read_text()) | {"sha256": hashlib.sha256(b"not tensors").hexdigest()}
    card_path.write_text(json.dumps(card))
    with pytest.raises(WeightsError, match="no readable safetensors"):
        checkpoint.load(saved)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin", ".PTH"])
def test_pickles_are_refused_unread(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(WeightsError, match="only safetensors"):
        checkpoint.load(path)
    with pytest.raises(WeightsError, match="only safetensors"):
        checkpoint.save(path, {}, a_card())


def test_a_missing_tensor_is_named(saved):
    rewrite(saved, lambda state: state.pop("presence_head.1.weight"))
    with pytest.raises(WeightsError, match=r"1 tensor is missing .*presence_head\.1\.weight"):
        checkpoint.verify(saved)


def test_an_unknown_tensor_is_named(saved):
    rewrite(saved, lambda state: state.update(stranger=torch.ones(1)))
    with pytest.raises(WeightsError, match=r"1 tensor is unknown .*stranger"):
        checkpoint.verify(saved)


def test_a_tensor_of_another_shape_is_named(saved):
    rewrite(saved, lambda state: state.update({"presence_head.1.weight": torch.ones(3, 3)}))
    with pytest.raises(WeightsError, match=r"of another shape .*presence_head\.1\.weight"):
        checkpoint.verify(saved)


def test_weights_of_another_preset_are_refused(saved, tiny_preset, monkeypatch):
    monkeypatch.setattr(segmenter, "PRESETS", {"starter": replace(tiny_preset, query_width=64)})
    with pytest.raises(WeightsError, match="preset starter, stage 1"):
        checkpoint.verify(saved)


def test_stage_1_weights_are_no_stage_2_weights(saved):
    loaded = checkpoint.load(saved)
    checkpoint.save(saved, loaded.state, loaded.card.model_copy(update={"stage": 2}))
    with pytest.raises(WeightsError, match=r"missing .*stage 2"):
        checkpoint.verify(saved)


def test_a_card_with_too_few_hu_windows_is_refused(saved):
    loaded = checkpoint.load(saved)
    checkpoint.save(saved, loaded.state, loaded.card.model_copy(update={"hu_windows": ((-160, 240),)}))
    with pytest.raises(WeightsError, match="1 HU windows"):
        checkpoint.verify(saved)


def test_weights_without_a_card_are_refused(saved):
    saved.with_suffix(".json").unlink()
    with pytest.raises(WeightsError, match="card is missing"):
        checkpoint.load(saved)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"name": 3}', "\x00"])
def test_a_broken_card_is_one_line(saved, text):
    saved.with_suffix(".json").write_text(text)
    with pytest.raises(WeightsError, match="no valid model card") as caught:
        checkpoint.load(saved)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"surprise": 1},
        {"organs": ("Lever",)},
        {"tumors": ("Liver",)},
        {"tumors": ("Liver Tumor",)},  # in Stage 1
        {"window": (96, 96, 100)},
        {"window": (0, 96, 96)},
        {"spacing_mm": (3, 0, 3)},
        {"spacing_mm": (3, float("nan"), 3)},
        {"hu_windows": ()},
        {"hu_windows": ((240, -160), (0, 1))},
        {"sha256": "abc"},
        {"name": "../tiny"},
        {"stage": 3},
        {"preset": "huge"},
    ],
)
def test_a_card_that_contradicts_itself_or_the_taxonomy_is_refused(change):
    with pytest.raises(ValidationError):
        a_card(**change)


def test_values_beyond_fp16_are_not_stored(tmp_path):
    path = tmp_path / "any.safetensors"
    with pytest.raises(WeightsError, match="not finite"):
        checkpoint.save(path, {"a": torch.tensor([1e6])}, a_card())
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_name_lists_what_there_is(monkeypatch, saved):
    monkeypatch.setattr(storage, "_FOLDER", saved.parent)
    assert checkpoint.packaged() == ["tiny"]
    with pytest.raises(WeightsError, match=r"'large'.*There are: tiny"):
        checkpoint.load("large")


def test_packaged_weights_are_found_by_name(monkeypatch, saved):
    monkeypatch.setattr(storage, "_FOLDER", saved.parent)
    assert checkpoint.load("tiny").path == saved


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch])
def test_what_lies_in_the_working_directory_does_not_change_what_a_packaged_name_means(
    monkeypatch, saved, tmp_path, make
):
    monkeypatch.setattr(storage, "_FOLDER", saved.parent)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    make(Path("tiny"))
    assert checkpoint.load("tiny").path == saved


@pytest.mark.parametrize("name", ["a" * 300, "a" * 300 + ".safetensors"])
def test_a_name_that_is_too_long_is_told_as_such(name):
    with pytest.raises(WeightsError, match="File name too long"):
        checkpoint.load(name)


@pytest.mark.parametrize("name", ["missing.safetensors", "folder/missing.safetensors"])
def test_a_path_that_does_not_exist_is_told_as_such(tmp_path, name):
    with pytest.raises(WeightsError, match="does not exist"):
        checkpoint.load(tmp_path / name)


def test_a_folder_is_told_as_such(tmp_path):
    with pytest.raises(WeightsError, match="is a folder"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("name", checkpoint.packaged())
def test_the_packaged_weights_are_sound(name):
    assert checkpoint.verify(name).name == name

"""MONAI's checkpoints come in whole, with every tensor in its place, and nothing else comes in with them."""

import errno
import hashlib
import pickle
import warnings
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from dsmseg.checkpoint import import_backbone, load_backbone, verify
from dsmseg.errors import DsmsegError, OutputError, WeightsError
from dsmseg.model.swin_unetr import SwinUNETR

State = dict[str, Tensor]

INDEX = "swinViT.layers1.0.blocks.0.attn.relative_position_index"
QKV = "swinViT.layers2.0.blocks.1.attn.qkv.weight"
EMBEDDING = "swinViT.patch_embed.proj.weight"


@pytest.fixture(scope="module")
def monai():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.networks.nets import swin_unetr
    return swin_unetr


@pytest.fixture(scope="module")
def peer(monai) -> nn.Module:
    """MONAI's network with random weights in every place."""
    torch.manual_seed(0)
    network = monai.SwinUNETR(in_channels=2, out_channels=3, feature_size=12).eval()
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter) if parameter.ndim <= 2 else 0
    return network


@pytest.fixture(scope="module")
def ours() -> State:
    """The state of a whole network, as MONAI names it, without its last convolution."""
    torch.manual_seed(1)
    return SwinUNETR(input_channels=2, feature_size=12).state_dict()


def self_supervised(state: State) -> State:
    """The encoder of ``state`` as ``model_swinvit.pt`` names it, with the heads of self-supervised training."""
    encoder = {
        name.replace("swinViT.", "module.").replace("linear1", "fc1").replace("linear2", "fc2"): tensor
        for name, tensor in state.items()
        if name.startswith("swinViT.")
    }
    heads = ("norm.weight", "rotation_head.weight", "contrastive_head.bias", "convTrans3d.weight", "conv.0.weight")
    return encoder | {f"module.{head}": torch.ones(3) for head in heads}


def write(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def refused(source: Path, what: str, kind: type[DsmsegError] = WeightsError) -> str:
    """The one line with which ``source`` is refused; nothing was written."""
    target = source.parent / "out" / "backbone.safetensors"
    with pytest.raises(kind, match=what) as caught:
        import_backbone(source, target)
    assert not target.parent.exists() or list(target.parent.iterdir()) == []
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_imported_network_answers_as_it_does_in_monai(peer, tmp_path):
    source = write(peer.state_dict(), tmp_path / "monai.pt")
    card = import_backbone(source, tmp_path / "backbone.safetensors", licence="Apache-2.0")
    network = load_backbone(tmp_path / "backbone.safetensors")
    image = torch.randn(1, 2, 64, 32, 32, generator=torch.Generator().manual_seed(2))
    last = peer.out.conv.conv
    with torch.inference_mode():
        answer = nn.functional.conv3d(network(image).embedding, last.weight, last.bias)
        torch.testing.assert_close(answer, peer(image), rtol=0, atol=1e-4)
    assert (card.feature_size, card.input_channels, card.holds) == (12, 2, "encoder and decoder")
    assert card.left_away == ("out.conv.conv.weight", "out.conv.conv.bias")
    assert (card.name, card.source, card.licence) == ("backbone", "monai.pt", "Apache-2.0")
    assert card.source_sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    assert verify(tmp_path / "backbone.safetensors") == card


def test_no_tensor_is_changed_by_an_import(ours, tmp_path):
    import_backbone(write(ours, tmp_path / "a.pt"), tmp_path / "b.safetensors")
    state = load_backbone(tmp_path / "b.safetensors").state_dict()
    assert state.keys() == ours.keys()
    assert [name for name, tensor in ours.items() if not torch.equal(state[name], tensor)] == []


def test_wrappers_and_prefixes_make_no_difference(ours, tmp_path):
    def prefixed(prefix: str) -> State:
        return {prefix + name: tensor for name, tensor in ours.items()}

    contents = [
        ours,
        {"state_dict": ours, "epoch": 3, "optimizer": {"state": {}}},
        {"model": ours},
        {"state_dict": prefixed("module.")},
        prefixed("net."),
        prefixed("backbone."),
        prefixed("module.model."),
        {"model": prefixed("_orig_mod.")},
    ]
    found = set()
    for number, content in enumerate(contents):
        source = write(content, tmp_path / f"{number}.pth")
        found.add(import_backbone(source, tmp_path / f"{number}.safetensors").sha256)
    safetensors.torch.save_file(ours, tmp_path / "source.safetensors")
    found.add(import_backbone(tmp_path / "source.safetensors", tmp_path / "target.safetensors").sha256)
    assert len(found) == 1


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_kept_as_float32(ours, tmp_path, precision):
    state = {name: one.to(precision) if one.is_floating_point() else one for name, one in ours.items()}
    import_backbone(write(state, tmp_path / "a.pt"), tmp_path / "b.safetensors")
    stored = safetensors.torch.load_file(tmp_path / "b.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32, torch.int64}
    assert torch.equal(stored[QKV], state[QKV].float())


def test_a_self_supervised_encoder_fills_the_encoder_as_in_monai_and_nothing_else(monai, peer, tmp_path):
    content = {"state_dict": self_supervised(peer.state_dict())}
    card = import_backbone(write(content, tmp_path / "model_swinvit.pt"), tmp_path / "encoder.safetensors")
    assert card.holds == "encoder"
    assert card.left_away == tuple(
        name for name in content["state_dict"] if "layers" not in name and "embed" not in name
    )
    torch.manual_seed(3)
    network = load_backbone(tmp_path / "encoder.safetensors").state_dict()
    torch.manual_seed(3)
    initial = SwinUNETR(input_channels=2, feature_size=12).state_dict()
    expected = monai.SwinUNETR(in_channels=2, out_channels=3, feature_size=12)
    expected.load_from(content)
    for name, tensor in expected.state_dict().items():
        if name.startswith("swinViT."):
            assert torch.equal(network[name], tensor), name
        elif not name.startswith("out."):
            assert torch.equal(network[name], initial[name]), name


@pytest.mark.parametrize("prefix", ["swinViT.", "module.swinViT.", "swin_vit.", "module.swin_vit.", ""])
def test_an_encoder_is_known_by_each_of_its_published_names(ours, tmp_path, prefix):
    encoder = {prefix + name.removeprefix("swinViT."): one for name, one in ours.items() if name.startswith("swinViT.")}
    card = import_backbone(write(encoder, tmp_path / "a.pt"), tmp_path / "b.safetensors")
    assert card.holds == "encoder"
    assert torch.equal(load_backbone(tmp_path / "b.safetensors").state_dict()[QKV], ours[QKV])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({QKV: None}, rf"1 tensor is missing for a Swin UNETR of feature size 12 for 2 .*{QKV}"),
        ({QKV: None, INDEX: None}, rf"2 tensors are missing .*first: {INDEX}"),
        ({"decoder1.conv_block.conv1.conv.weight": None}, "1 tensor is missing .*decoder1"),
        ({"swinViT.layers1c.0.layer.conv1.conv.weight": torch.ones(1)}, "1 tensor is unknown .*layers1c"),
        ({"net.decoder9.weight": torch.ones(1)}, r"1 tensor is unknown .*first: net\.decoder9"),
        ({QKV: torch.ones(72, 25)}, rf"1 tensor is of another shape .*{QKV}"),
        ({QKV: torch.ones(72, 24, dtype=torch.int8)}, rf"1 tensor is of another type .*{QKV}"),
        ({INDEX: torch.zeros(343, 343, dtype=torch.int64)}, rf"{INDEX} has other values"),
        ({QKV: torch.full((72, 24), torch.nan)}, rf"{QKV} holds values that are not finite"),
        ({EMBEDDING: None}, "is no Swin UNETR"),
        ({EMBEDDING: torch.ones(12, 3, 2, 2, 2)}, r"another shape .*for 3 input channels .*encoder1"),
        ({EMBEDDING: torch.ones(24, 2, 2, 2, 2)}, "another shape .*feature size 24"),
        ({EMBEDDING: torch.ones(1_200_000, 2, 1, 1, 1)}, "another shape .*feature size 1200000"),
        ({EMBEDDING: torch.ones(14, 2, 2, 2, 2)}, r"has the shape \(14, 2, 2, 2, 2\)"),
        ({EMBEDDING: torch.ones(0, 2, 2, 2, 2)}, "has the shape"),
        ({EMBEDDING: torch.ones(12, 0, 2, 2, 2)}, "has the shape"),
        ({EMBEDDING: torch.ones(12, 2, 2, 2)}, "has the shape"),
        ({QKV.replace("swinViT", "swin_vit"): torch.ones(72, 24)}, f"holds {QKV} twice"),
        ({QKV: "not a tensor"}, "does not hold tensors by name"),
        ({QKV: torch.ones(72, 24).to_sparse()}, "does not hold tensors by name"),
        ({7: torch.ones(1)}, "does not hold tensors by name"),
    ],
)
def test_what_is_not_exactly_a_swin_unetr_is_refused_by_the_first_tensor_that_differs(ours, tmp_path, change, told):
    content = {name: value for name, value in (ours | change).items() if value is not None}
    line = refused(write(content, tmp_path / "source.pt"), told)
    assert "source.pt" in line or "not finite" in told


@pytest.mark.parametrize("content", [{}, [], 3, {"state_dict": {}}, [torch.ones(1)]])
def test_a_file_without_tensors_by_name_is_refused(tmp_path, content):
    refused(write(content, tmp_path / "a.pt"), "does not hold tensors by name")


class Writes:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_code_in_a_checkpoint_is_not_run(ours, tmp_path, save, suffix, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    source, written = tmp_path / f"a{suffix}", tmp_path / "written"
    save({"state_dict": {QKV: ours[QKV]}, "note": Writes(written)}, source)
    refused(source, "is no readable safetensors" if suffix == ".safetensors" else "not tensors alone|can read")
    assert not written.exists()
    if suffix == ".pt":  # the trap itself works
        torch.load(source, weights_only=False) if save is torch.save else pickle.loads(source.read_bytes())  # noqa: S301
        assert written.exists()


def test_a_whole_pickled_network_is_refused_by_the_class_that_it_holds(tmp_path):
    refused(write(nn.Linear(1, 1), tmp_path / "a.pt"), r"holds torch\.nn\.modules\.linear\.Linear, not tensors alone")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty"),
        (b"This is no checkpoint.\n" * 20, "is no "),
        (b"PK\x03\x04junk", "is no "),
        (b"\x80", "is no "),
    ],
)
def test_what_is_no_checkpoint_is_told_as_such(tmp_path, content, told, suffix):
    source = tmp_path / f"a{suffix}"
    source.write_bytes(content)
    refused(source, told)


def test_a_checkpoint_cut_short_is_told_as_such(ours, tmp_path):
    source = write(ours, tmp_path / "a.pt")
    source.write_bytes(source.read_bytes()[:-1000])
    refused(source, "is no checkpoint")


def test_a_folder_and_a_missing_file_are_told_as_such(tmp_path):
    (tmp_path / "folder.pt").mkdir()
    refused(tmp_path / "folder.pt", "directory")
    refused(tmp_path / "gone.pt", "No such file")


@pytest.mark.parametrize("taken", ["source.safetensors", "source.json"])
def test_nothing_that_exists_is_replaced(ours, tmp_path, taken):
    source = tmp_path / "checkpoint.safetensors"
    safetensors.torch.save_file({QKV: ours[QKV]}, source)
    (tmp_path / taken).write_text("mine")
    with pytest.raises(OutputError, match=f"{taken}: exists already"):
        import_backbone(source, tmp_path / "source.safetensors")
    with pytest.raises(OutputError, match="exists already"):
        import_backbone(source, source)
    assert (tmp_path / taken).read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "told"), [("b.pt", "is a pickle"), ("b.txt", "no safetensors"), ("my b.safetensors", "no name")]
)
def test_a_target_that_no_weights_can_have_is_refused_before_the_source_is_read(tmp_path, name, told):
    with pytest.raises(WeightsError, match=told):
        import_backbone(tmp_path / "gone.pt", tmp_path / name)


def test_a_full_disk_leaves_nothing_behind(ours, tmp_path, monkeypatch):
    source = write(ours, tmp_path / "a.pt")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    refused(source, "No space left", OutputError)

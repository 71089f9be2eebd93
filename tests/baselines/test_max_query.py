"""MaxQuery: far from all queries is an anomaly, and queries are divided between foreground and background."""

import pytest
import torch
from torch import nn

from dsmseg.baselines import BaselineOutput
from dsmseg.baselines.max_query import BACKGROUND_QUERIES, EMBEDDING, QUERIES
from dsmseg.model.features import PixelFeatures
from dsmseg.model.losses import PartialLabels

SIZE = (16, 8, 8)
READINGS = {"cross_entropy_weight": 1.0, "over_batch": False, "least_share": 0.0}
WEIGHTS = {"organ_readings": READINGS, "tumor_readings": READINGS, "tumor_weight": 1.0}


class Given(nn.Module):
    """A backbone that gives an embedding as it was told to."""

    def __init__(self, embedding: torch.Tensor) -> None:
        super().__init__()
        self.embedding = embedding

    def forward(self, image: torch.Tensor) -> PixelFeatures:
        return PixelFeatures(levels=(), half=self.embedding[..., ::2, ::2, ::2], embedding=self.embedding)


def test_a_blob_that_no_query_answers_is_an_anomaly(make) -> None:
    network = make("max_query").eval()
    axes = torch.eye(EMBEDDING)
    embedding = axes[3].view(1, EMBEDDING, 1, 1, 1).repeat(1, 1, *SIZE)
    embedding[0, :, 4:8, 2:6, 2:6] = axes[-1].view(EMBEDDING, 1, 1, 1)
    embedding *= torch.rand(1, 1, *SIZE) + 0.5  # how loud a voxel is has no say
    network.backbone, network.blocks = Given(embedding), nn.ModuleList()
    network.query_embedding = network.voxel_embedding = nn.Identity()
    network.queries.data = axes[torch.arange(QUERIES) % (EMBEDDING - 1)]  # all but the last axis
    with torch.inference_mode():
        score = 1 + network(torch.zeros(1, 2, *SIZE)).anomaly[0]
    blob = torch.zeros(SIZE, dtype=torch.bool)
    blob[4:8, 2:6, 2:6] = True
    torch.testing.assert_close(score[blob], torch.full_like(score[blob], 0.5))
    torch.testing.assert_close(score[~blob], torch.zeros_like(score[~blob]), atol=1e-6, rtol=0)


def test_an_assignment_is_a_distribution_over_queries(make, image) -> None:
    network = make("max_query").eval()
    assignment = network(image(network)).log_assignment.exp()
    assert assignment.shape == (1, QUERIES, 64, 32, 32)
    torch.testing.assert_close(assignment.sum(dim=1), torch.ones(1, 64, 32, 32))


def case(query: torch.Tensor) -> tuple[BaselineOutput, PartialLabels]:
    """Voxels that belong to the ``query`` of each place wholly; the first half of the patch is of organ 0."""
    assignment = torch.zeros(1, QUERIES, *SIZE).scatter_(1, query.expand(1, 1, *SIZE), 20.0).log_softmax(dim=1)
    masks = torch.zeros(1, 45, *SIZE, dtype=torch.bool)
    masks[:, 0, :8] = True
    annotated = torch.zeros(1, 45, dtype=torch.bool)
    annotated[:, 0] = True
    empty = torch.full((1, 45, *SIZE), -20.0)
    return BaselineOutput(empty[:, :25], empty[:, 25:], empty[:, 0], log_assignment=assignment), PartialLabels(
        masks, annotated
    )


@pytest.mark.parametrize(("divided", "least", "most"), [(True, 0, 1e-4), (False, 30, 50)])
def test_queries_are_divided_between_foreground_and_background(make, divided, least, most) -> None:
    network = make("max_query")
    inside = torch.arange(SIZE[0]).view(1, 1, -1, 1, 1) < 8
    output, labels = case(torch.where(inside == divided, BACKGROUND_QUERIES, 0))
    terms = network.losses(output, labels, **WEIGHTS)
    assert least <= float(terms["query_distribution"]) <= most


def test_what_may_be_of_a_class_without_labels_is_not_called_background(make) -> None:
    network = make("max_query")
    output, labels = case(torch.full((1, 1, 1, 1, 1), BACKGROUND_QUERIES))  # all are foreground
    organs = output.organ_logits.clone()
    terms = [network.losses(output, labels, **WEIGHTS)["query_distribution"]]
    for organ in (24, 5):  # one that is trained nowhere, and one that is trained elsewhere
        organs[:, organ, 8:] = 20.0
        told = output._replace(organ_logits=organs.clone())
        terms.append(network.losses(told, labels, **WEIGHTS)["query_distribution"])
    assert terms[0] == terms[1] > 10
    assert terms[2] < 1e-3

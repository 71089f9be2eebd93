"""Row 5 of Table 5: how the mask of a class is read from queries that are bound to none."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmseg.model.query_classification import Proposals, QueryClassification, class_masks

SEEDS = st.integers(0, 999)


def proposals(seed: int) -> Proposals:
    generator = torch.Generator().manual_seed(seed)
    masks = 3 * torch.randn(2, 4, 2, 1, 2, generator=generator)
    return Proposals(masks, 3 * torch.randn(2, 4, 4, generator=generator))


@settings(max_examples=30)
@given(seed=SEEDS)
def test_a_class_is_where_the_query_that_most_probably_means_it_sees_its_object(seed):
    given_proposals = proposals(seed)
    masks = class_masks(given_proposals).sigmoid()
    assert masks.shape == (2, 3, 2, 1, 2)
    for item in range(2):
        exponentials = given_proposals.class_logits[item].double().exp().tolist()
        table = [[value / sum(row) for value in row] for row in exponentials]
        for index in range(3):
            best = max(range(4), key=lambda query, at=index: table[query][at])
            expected = table[best][index] * given_proposals.mask_logits[item, best].sigmoid()
            torch.testing.assert_close(masks[item, index], expected, rtol=1e-4, atol=1e-6)


def test_a_class_that_no_query_means_has_an_empty_mask():
    masks, classes = torch.full((1, 2, 1, 1, 3), 50.0), torch.tensor([[[9.0, -9.0, 0.0], [-9.0, -9.0, 9.0]]])
    logits = class_masks(Proposals(masks, classes))
    assert bool((logits[0, 0] > 5).all())
    assert bool((logits[0, 1] < -5).all())


def test_certainty_and_masks_beyond_what_a_float_can_tell_from_one_stay_finite():
    masks = torch.tensor([-1e4, -200.0, 0.0, 200.0, 1e4]).view(1, 1, 5, 1, 1)
    for certain in (200.0, 0.0, -200.0):
        logits = class_masks(Proposals(masks, torch.tensor([[[certain, 0.0]]])))
        assert bool(logits.isfinite().all())
        assert bool((logits.flatten().diff() >= 0).all())


def test_half_precision_proposals_are_read_in_single_precision():
    half = Proposals(*(part.bfloat16() for part in proposals(0)))
    torch.testing.assert_close(class_masks(half), class_masks(Proposals(*(part.float() for part in half))))
    assert class_masks(half).dtype == torch.float32


def test_reading_passes_no_gradient():
    leaves = Proposals(*(part.requires_grad_() for part in proposals(0)))
    assert not class_masks(leaves).requires_grad


def test_each_query_has_a_logit_for_each_class_and_for_no_object():
    torch.manual_seed(0)
    layer, queries = QueryClassification(width=5, classes=3), torch.randn(2, 7, 5)
    expected = queries @ layer.classify.weight.T + layer.classify.bias
    torch.testing.assert_close(layer(queries), expected)
    assert layer(queries).shape == (2, 7, 4)

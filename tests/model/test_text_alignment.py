"""§ 4.2.3: Eq. 20 against loops in float64, and what centering adds to it."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmseg.model.text_alignment import TextAlignment


def collinear_text(classes: int = 45, width: int = 32) -> torch.Tensor:
    """Rows of a mean cosine near 0.9, as CLIP gives for the class prompts."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, width, generator=generator) + 0.33 * torch.randn(classes, width, generator=generator)


def identity(text: torch.Tensor, *, center: bool) -> TextAlignment:
    alignment = TextAlignment(text, text.shape[1], center=center)
    alignment.projection.weight.data = torch.eye(text.shape[1])
    return alignment


@pytest.mark.equation(20)
@pytest.mark.parametrize("center", [True, False])
def test_each_query_has_a_distribution_over_the_classes(center):
    alignment = TextAlignment(collinear_text(), 24, center=center)
    log_probability = alignment(torch.randn(2, 7, 24))
    assert log_probability.shape == (2, 7, 45)
    torch.testing.assert_close(log_probability.exp().sum(-1), torch.ones(2, 7))


def plain_eq_20(alignment: TextAlignment, query: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """The distribution over texts of one query, with tau = 0.01."""
    projected = (alignment.projection.weight.double() @ query.double()).tolist()
    exponentials = []
    for text in texts.double().tolist():
        dot = sum(k * q for k, q in zip(text, projected, strict=True))
        norms = math.sqrt(sum(k * k for k in text)) * math.sqrt(sum(q * q for q in projected))
        exponentials.append(math.exp(dot / norms / 0.01))
    return torch.tensor([one / sum(exponentials) for one in exponentials])


@pytest.mark.equation(20)
@pytest.mark.parametrize("center", [True, False])
def test_probability_is_eq_20(center):
    torch.manual_seed(0)
    text = collinear_text(classes=7)
    alignment = TextAlignment(text, 24, center=center)
    queries = torch.randn(2, 5, 24)
    probability = alignment(queries).exp()
    texts = text - text.mean(dim=0) if center else text
    for item in range(2):
        for query in range(5):
            expected = plain_eq_20(alignment, queries[item, query], texts)
            torch.testing.assert_close(probability[item, query], expected, rtol=2e-3, atol=1e-6)


@pytest.mark.equation(20)
@settings(max_examples=30)
@given(scale=st.floats(1e-3, 1e3))
def test_scale_of_queries_and_of_texts_does_not_matter(scale):
    torch.manual_seed(0)
    text = collinear_text()
    queries = torch.randn(1, 5, 32)
    expected = identity(text, center=True)(queries)
    torch.testing.assert_close(identity(text, center=True)(scale * queries), expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(identity(scale * text, center=True)(queries), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.equation(20)
def test_without_centering_each_text_may_have_a_scale_of_its_own():
    torch.manual_seed(0)
    text, queries = collinear_text(), torch.randn(1, 5, 32)
    scaled = text * torch.logspace(-2, 2, len(text))[:, None]
    expected = identity(text, center=False)(queries)
    torch.testing.assert_close(identity(scaled, center=False)(queries), expected, rtol=1e-3, atol=1e-3)


def test_centering_lets_a_perfect_query_reach_certainty():
    text = collinear_text()
    perfect = (text - text.mean(0))[None]
    centered = identity(text, center=True)(perfect).exp().diagonal(dim1=1, dim2=2)
    literal = identity(text, center=False)(text[None]).exp().diagonal(dim1=1, dim2=2)
    assert centered.min() > 0.999
    assert literal.min() < centered.min()


@pytest.mark.parametrize("center", [True, False])
def test_similarity_scores_free_text_on_the_same_footing_as_the_classes(center):
    text = collinear_text()
    alignment = TextAlignment(text, 24, center=center)
    queries = torch.randn(2, 3, 24)
    alone = alignment.similarity(queries, text[4:6])
    torch.testing.assert_close(alone, alignment.similarity(queries, text)[..., 4:6])
    assert bool((alone.abs() <= 1 + 1e-6).all())


def test_the_projection_learns_and_the_texts_do_not():
    alignment = TextAlignment(collinear_text(), 24)
    queries = torch.randn(1, 45, 24, requires_grad=True)
    alignment(queries).diagonal(dim1=1, dim2=2).mean().backward()
    assert [name for name, _ in alignment.named_parameters()] == ["projection.weight"]
    assert alignment.projection.weight.grad.abs().sum() > 0
    assert queries.grad.abs().sum() > 0
    assert "text_embeddings" in alignment.state_dict()


def test_autocast_does_not_lower_the_precision():
    alignment = TextAlignment(collinear_text(), 24)
    queries = torch.randn(1, 6, 24)
    with torch.autocast("cpu", torch.bfloat16):
        inside = alignment(queries)
    assert torch.equal(inside, alignment(queries))

"""docs/model.md is what its script makes, and no equation of the paper is without a function and a test."""

from dataclasses import replace

import pytest
import torch

from dsmseg.model import PRESETS, build

SCRIPT = "model_page.py"


def test_the_committed_page_is_what_the_script_makes(script):
    is_current = script.PAGE.read_text(encoding="utf-8") == script.page()
    assert is_current, "run: python docs/model_page.py"


def test_every_equation_has_a_function_and_a_test(script):
    functions, tests = script.functions_of_equations(), script.tests_of_equations()
    numbers = [3, 4, 5, 6, *range(8, 21)]
    assert [number for number in numbers if not functions[number]] == []
    assert [number for number in numbers if not tests[number]] == []


def test_the_page_lists_the_equations_that_the_paper_has_for_the_network(script):
    assert list(script.EQUATIONS) == [3, 4, 5, 6, *range(8, 21)]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("Eq. 3-6.", [3, 4, 5, 6]),
        ("(Eq. 9, 10), one", [9, 10]),
        ("Eq. 3 and Eq. 4: 2 terms", [3, 4]),
        ("Eq. 16-18, 20", [16, 17, 18, 20]),
        ("no equation, 12", []),
    ],
)
def test_equation_numbers_are_read_from_prose(script, text, numbers):
    assert list(script._numbers(text)) == numbers


@pytest.mark.parametrize(("sizes", "said"), [((25, 4, 4, 4), "25*4³"), ((45, 1045), "45*1,045"), ((2, 2, 2), "2³")])
def test_shapes_are_said_shortly(script, sizes, said):
    assert script.shape(*sizes) == said.replace("*", " \N{MULTIPLICATION SIGN} ")


def test_figures_are_of_the_network_as_it_runs(script):
    config = replace(PRESETS["starter"], channels=(8, 8, 16, 16, 16, 16), query_width=16, feed_forward_width=16)
    measured = script.measure(config)
    network = build(config, torch.zeros(45, config.text_width))
    assert sum(measured.parameters.values()) == sum(value.numel() for value in network.parameters())
    assert set(measured.operations) == {name for name, _ in network.named_children()}
    # A 1 x 1 x 1 convolution or a linear layer of a to b channels over n places is 2 a b n operations.
    presence = 2 * 25 * (16 * 4 + 4 * 1)
    assert measured.operations["presence_head"] == presence
    assert measured.operations["text_alignment"] == 2 * 45 * (16 * 384 + 384 * 45)
    voxels = [3**3, 6**3, 12**3, 24**3]
    assert measured.diffusion == sum(n * (13 * (7 * 16 + 3) + 6 * 16) for n in voxels)
    queries = 25 + 8  # of organs and of background
    assert measured.scan == sum(n * (2 * queries * (queries + 16) + 10 * queries * 8 + 2 * queries) for n in voxels)
    assert [tuple(level.shape) for level in measured.features.levels] == [(1, 16, n, n, n) for n in (3, 6, 12, 24)]

"""The plan of the virtual data sets: tumors by variant and diameter, and parts that keep apart."""

from collections import Counter

import pytest

from dsmseg.synthesis.protocol import _turn, diameter_bins, plan_cases, protocol
from dsmseg.synthesis.tumors.kinds import variants_of
from dsmseg.taxonomy import find

SEEN = ("virtual_lits", "virtual_kits")
GROWING = [one.name for one in protocol().datasets if one.tumors]


def planned(name, part):
    return [one for one in plan_cases("mini", 0) if (one.dataset, one.part) == (name, part)]


def end_of_bin(diameter):
    """Give the upper edge of the protocol's bin that holds a diameter."""
    return next(edge for edge in protocol().diameters_mm[1:] if diameter <= edge)


@pytest.mark.parametrize("name", GROWING)
def test_24_bodies_test_a_kind_with_each_variant_as_often_as_it_occurs_and_of_each_every_size_alike(name):
    tested = [one for part in ("testing", "inference") for one in planned(name, part) if one.tumors]
    assert len(tested) == 24
    (tumor,) = {tumor for one in tested for tumor in one.tumors}
    variants = variants_of(find(tumor))
    by_variant = Counter(one.variant for one in tested)
    assert set(by_variant) == {one.name for one in variants}
    for one in variants:
        assert abs(by_variant[one.name] - 24 * one.weight / sum(each.weight for each in variants)) < 1
        found = Counter(end_of_bin(case.diameter_mm) for case in tested if case.variant == one.name)
        sizes = [found[end_of_bin(end)] for _, end in diameter_bins(one.diameter[2:])]
        assert max(sizes) - min(sizes) <= 1


def test_places_are_shared_out_by_weight_from_the_first_on():
    turns = [_turn([3.0, 1.0, 2.0], place) for place in range(12)]
    assert Counter(number for number, _ in turns) == {0: 6, 1: 2, 2: 4}
    assert Counter(number for number, _ in turns[:6]) == {0: 3, 1: 1, 2: 2}
    for number in range(3):
        assert [before for one, before in turns if one == number] == list(range([6, 2, 4][number]))


@pytest.mark.parametrize("name", SEEN)
def test_training_shows_every_variant_that_is_tested_validation_no_other_and_half_of_it_is_healthy(name):
    shown = {
        part: {one.variant for one in planned(name, part) if one.tumors}
        for part in ("training", "testing", "validation")
    }
    assert shown["testing"] == shown["training"] >= shown["validation"]
    validation = planned(name, "validation")
    assert sum(bool(one.tumors) for one in validation) == sum(not one.tumors for one in validation) == 8


@pytest.mark.parametrize("scale", ["mini", "small", "full"])
def test_a_diameter_lies_within_what_its_variant_allows_and_healthy_bodies_have_none(scale):
    for one in plan_cases(scale, 3):
        assert (one.variant is None) == (one.diameter_mm is None) == (not one.tumors)
        for tumor in one.tumors:
            low, high = next(each for each in variants_of(find(tumor)) if each.name == one.variant).diameter[2:]
            edges = protocol().diameters_mm
            assert max(low, edges[0]) - 0.05 <= one.diameter_mm <= min(high, edges[-1]) + 0.05


def test_validation_is_no_part_of_the_supervised_protocol_nor_of_an_unseen_kind():
    for one in plan_cases("full", 0):
        if one.part == "validation":
            assert one.supervised == ""
            assert not protocol().unseen & set(one.tumors)

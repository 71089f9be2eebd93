"""Fragments of organs go, parts stay; tumors stay at their hosts."""

import numpy as np
import torch

from dsmseg.inference.postprocessing import confine_to_hosts, drop_fragments
from dsmseg.taxonomy import find


def test_a_small_fragment_goes_and_a_second_large_part_stays():
    field = torch.zeros(1, 30, 10, 10)
    field[0, 2:12] = 0.9
    field[0, 14:20] = 0.8
    field[0, 25, 5, 5] = 0.99
    expected = field.clone()
    expected[0, 25, 5, 5] = 0
    drop_fragments(field, [find("Liver")])
    assert torch.equal(field, expected)


def test_bowel_keeps_the_small_parts_that_an_organ_in_one_piece_loses():
    field = torch.zeros(2, 30, 10, 10)
    field[:, 2:12] = 0.9
    field[:, 20, 2:8, 2:7] = 0.9  # 3 % of the large part
    drop_fragments(field, [find("Liver"), find("Colon")])
    assert not field[0, 20].any()
    assert field[1, 20].any()


def test_scores_below_one_half_and_absent_organs_are_left_alone():
    field = torch.full((1, 5, 5, 5), 0.4)
    expected = field.clone()
    drop_fragments(field, [find("Liver")])
    assert torch.equal(field, expected)


def masks(**named) -> dict:
    return {name.replace("_", " "): mask for name, mask in named.items()}


def test_a_tumor_stays_at_its_host_and_vanishes_far_from_it():
    liver = np.zeros((20, 20, 20), dtype=bool)
    liver[:8] = True
    tumor = torch.full((1, 20, 20, 20), 0.9)
    confine_to_hosts(tumor, [find("Liver Tumor")], masks(Liver=liver), (3.0, 3.0, 3.0))
    assert (tumor[0, :11] > 0).all()  # 9 mm beyond
    assert not tumor[0, 11:].any()


def test_a_tumor_without_its_host_in_the_scan_vanishes():
    tumor = torch.full((1, 5, 5, 5), 0.9)
    confine_to_hosts(tumor, [find("Liver Tumor")], masks(Liver=np.zeros((5, 5, 5), dtype=bool)), (3.0, 3.0, 3.0))
    assert not tumor.any()


def test_a_tumor_is_left_alone_where_the_weights_do_not_know_all_of_its_hosts():
    tumor = torch.full((1, 5, 5, 5), 0.9)
    one_kidney = masks(Right_Kidney=np.zeros((5, 5, 5), dtype=bool))
    confine_to_hosts(tumor, [find("Kidney Tumor")], one_kidney, (3.0, 3.0, 3.0))
    assert (tumor == 0.9).all()

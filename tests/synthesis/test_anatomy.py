"""Every structure has a tissue; organs are those of the paper."""

import numpy as np

from dsmseg.synthesis.anatomy import totalsegmentator
from dsmseg.taxonomy import find


def test_every_structure_has_a_tissue_with_ordered_ranges() -> None:
    anatomy = totalsegmentator()
    assert anatomy.tissues[0] is None
    for tissue in anatomy.tissues[1:]:
        assert tissue is not None
        assert all(low < high for low, high in tissue.ranges)
        assert tissue.texture > 0


def test_lobes_make_up_a_lung_and_sides_are_kept() -> None:
    anatomy = totalsegmentator()
    by_name = dict(zip(anatomy.structures, anatomy.organs.tolist(), strict=True))
    assert by_name["lung_upper_lobe_left"] == by_name["lung_lower_lobe_left"] == find("Left Lung").id
    assert by_name["lung_middle_lobe_right"] == find("Right Lung").id
    assert by_name["kidney_left"] == find("Left Kidney").id
    assert by_name["inferior_vena_cava"] == find("IVC").id


def test_a_whole_femur_is_not_a_head_of_femur() -> None:
    anatomy = totalsegmentator()
    assert anatomy.organs[anatomy.structures.index("femur_left")] == 0
    assert find("Left Head of Femur").id not in anatomy.annotated_organs


def test_twenty_of_the_25_organs_are_annotated() -> None:
    assert len(totalsegmentator().annotated_organs) == 20
    assert np.all(np.asarray(totalsegmentator().annotated_organs) <= 25)

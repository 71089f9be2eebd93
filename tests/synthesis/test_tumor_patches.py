"""Tumors put into a patch: what grows, what is known afterwards, and that labels stay those of a body."""

import numpy as np
import pytest

from dsmseg.synthesis.noise import generator
from dsmseg.synthesis.tumors.kinds import tumor_class
from dsmseg.synthesis.tumors.patches import LabelledPatch, TumorPlan, absent_kinds, put_tumors
from dsmseg.taxonomy import ORGANS, TUMORS, find

ORGAN_IDS = frozenset(one.id for one in ORGANS)
EVERYTHING = absent_kinds(ORGAN_IDS)


def index(name):
    return find(name).id - 1


def patch(*, absent=EVERYTHING, annotated=("Liver", "Spleen", "Right Kidney", "Hepatic Vessel"), merged=()):
    """Give a liver with a vessel and a spleen beside it in fat; a right kidney of a few voxels."""
    shape = (48, 40, 40)
    masks, known = np.zeros((45, *shape), bool), np.zeros(45, bool)
    x, y, z = np.indices(shape)
    masks[index("Liver")] = ((x - 18) / 15) ** 2 + ((y - 20) / 14) ** 2 + ((z - 20) / 14) ** 2 < 1
    masks[index("Hepatic Vessel")] = masks[index("Liver")] & (abs(y - 20) < 2) & (abs(z - 20) < 2)
    masks[index("Spleen")] = ((x - 41) / 6) ** 2 + ((y - 20) / 9) ** 2 + ((z - 20) / 9) ** 2 < 1
    masks[index("Right Kidney"), 30:32, 4:6, 4:6] = True
    image = np.where(masks.any(axis=0), 108.0, -95.0) + np.random.default_rng(0).normal(0, 9, shape)
    known[[index(name) for name in annotated]] = True
    masks[~known] = False
    return LabelledPatch(image.astype(np.float32), masks, known, absent, (3.0, 3.0, 3.0), merged)


def plan(*kinds, **settings):
    return TumorPlan(kinds=tuple(tumor_class(kind) for kind in kinds), **{"distractors": 0.0} | settings)


def drawn(count, before, what):
    return [put_tumors(before, what, generator("put", seed)) for seed in range(count)]


def test_a_tumor_lies_in_its_organ_and_in_no_other_and_no_organ_overlaps_another():
    before = patch()
    for after in drawn(12, before, plan("Liver Tumor", "Spleen Tumor", chance=1.0)):
        tumors = [one.id - 1 for one in TUMORS if after.masks[one.id - 1].any()]
        assert len(tumors) == 1
        tumor = after.masks[tumors[0]]
        host, other = ("Liver", "Spleen") if tumors[0] == index("Liver Tumor") else ("Spleen", "Liver")
        assert not (tumor & ~after.masks[index(host)]).any()
        assert not (tumor & after.masks[index(other)]).any()
        assert not (tumor & after.masks[index("Hepatic Vessel")]).any()
        assert not (after.masks[index("Liver")] & after.masks[index("Spleen")]).any()
        assert after.image.dtype == np.float32
        assert (after.image[tumor] != before.image[tumor]).mean() > 0.9


def test_kinds_of_the_plan_are_known_where_the_scan_has_none_and_shows_their_host():
    for chance in (0.0, 1.0):
        for after in drawn(4, patch(), plan("Liver Tumor", "Spleen Tumor", "Kidney Tumor", chance=chance)):
            assert after.annotated[[index("Liver Tumor"), index("Spleen Tumor")]].all()
            assert not after.annotated[index("Kidney Tumor")]  # too little of a kidney to tell
            assert after.annotated.sum() == 6


@pytest.mark.parametrize("absent", [frozenset(), absent_kinds(ORGAN_IDS - {find("Liver").id})])
def test_nothing_grows_and_nothing_becomes_known_where_the_scan_may_have_such_a_tumor(absent):
    before = patch(absent=absent)
    for after in drawn(6, before, plan("Liver Tumor", chance=1.0)):
        assert after.image is before.image
        np.testing.assert_array_equal(after.annotated, before.annotated)


def test_kinds_outside_the_plan_are_never_drawn_nor_known():
    for after in drawn(12, patch(), plan("Liver Tumor", chance=1.0)):
        assert {one.name for one in TUMORS if after.annotated[one.id - 1]} == {"Liver Tumor"}
        assert {one.name for one in TUMORS if after.masks[one.id - 1].any()} == {"Liver Tumor"}


def test_an_unlabelled_organ_gets_no_tumor():
    for after in drawn(6, patch(annotated=("Spleen",)), plan("Liver Tumor", chance=1.0)):
        assert not after.masks[index("Liver Tumor")].any()


def test_the_chance_is_the_share_of_patches_with_a_tumor():
    some = [after.masks[index("Liver Tumor")].any() for after in drawn(60, patch(), plan("Liver Tumor", chance=0.5))]
    assert 0.3 < np.mean(some) < 0.7


def test_a_merged_pair_stays_one_union():
    left, right = index("Left Kidney"), index("Right Kidney")
    before = patch(merged=((left, right),))
    before.masks[[left, right]] = before.masks[index("Spleen")]
    before.masks[index("Spleen")] = False
    before.annotated[left] = True
    for after in drawn(6, before, plan("Kidney Tumor", chance=1.0)):
        assert after.masks[index("Kidney Tumor")].any()
        np.testing.assert_array_equal(after.masks[left], after.masks[right])


def test_the_same_seed_gives_the_same_patch_and_the_one_given_stays_as_it_is():
    before = patch()
    image, masks = before.image.copy(), before.masks.copy()
    first, again, other = (
        put_tumors(before, plan("Liver Tumor", chance=1.0), generator("put", seed)) for seed in (1, 1, 2)
    )
    assert first.image.tobytes() == again.image.tobytes()
    assert first.masks.tobytes() == again.masks.tobytes()
    assert (first.masks != other.masks).any()
    np.testing.assert_array_equal(before.image, image)
    np.testing.assert_array_equal(before.masks, masks)


def test_a_kind_is_absent_where_all_its_hosts_are_healthy():
    one_side = absent_kinds(frozenset([find("Right Kidney").id, find("Spleen").id]))
    assert one_side == {find("Spleen Tumor").id}
    assert {one.id for one in TUMORS} == EVERYTHING


def test_a_distractor_changes_the_image_and_makes_no_tumor():
    before = patch()
    changed = 0
    for after in drawn(12, before, plan("Liver Tumor", chance=0.0, distractors=1.0)):
        assert not after.masks[[one.id - 1 for one in TUMORS]].any()
        assert after.annotated[index("Liver Tumor")]
        changed += int((after.image != before.image).any())
        assert not (after.masks[index("Liver")] & after.masks[index("Spleen")]).any()
    assert changed >= 10


def test_there_is_no_distractor_where_no_kind_is_known():
    before = patch(absent=frozenset())
    for after in drawn(4, before, plan("Liver Tumor", chance=0.0, distractors=1.0)):
        assert after.image is before.image


def test_where_a_kind_is_annotated_more_of_it_grow_beside_what_is_there():
    before = patch(absent=frozenset())
    before.masks[index("Liver Tumor"), 10:16, 16:22, 16:22] = True
    before.annotated[index("Liver Tumor")] = True
    known = before.masks[index("Liver Tumor")].sum()
    grown = [
        after.masks[index("Liver Tumor")].sum() / known for after in drawn(12, before, plan("Liver Tumor", chance=1.0))
    ]
    assert min(grown) > 0.5  # the mass effect of the new one may move the outline of the known one
    assert max(grown) > 1.2


def test_a_known_tumor_is_not_covered_by_a_distractor():
    before = patch(absent=frozenset())
    before.masks[index("Liver Tumor"), 10:16, 16:22, 16:22] = True
    before.annotated[index("Liver Tumor")] = True
    for after in drawn(12, before, plan("Liver Tumor", chance=0.0, distractors=1.0)):
        kept = after.masks[index("Liver Tumor")].sum() / before.masks[index("Liver Tumor")].sum()
        assert 0.5 < kept < 1.5  # the mass effect of a cyst beside it may move its outline


def test_early_lesions_are_small_and_are_those_of_the_organ():
    early = plan("Liver Tumor", chance=1.0, generic=1.0)
    sizes = [after.masks[index("Liver Tumor")].sum() * 27 / 1000 for after in drawn(12, patch(), early)]
    assert 0 < max(sizes) < 4.5  # ml: a ball of 20 mm has 4.2


def test_diameters_can_be_drawn_evenly_in_a_range():
    small, large = (
        np.median([
            after.masks[index("Spleen Tumor")].sum()
            for after in drawn(8, patch(), plan("Spleen Tumor", chance=1.0, generic=0.0, diameters=(mm, 1.2 * mm)))
        ])
        for mm in (10, 24)
    )  # fmt: skip
    assert large > 3 * small


def test_a_patch_may_get_several_growths_of_all_kinds_that_it_has_hosts_of():
    one, several = (plan("Liver Tumor", "Spleen Tumor", chance=1.0, generic=0.0, most=most) for most in (1, 6))
    kinds = [index("Liver Tumor"), index("Spleen Tumor")]

    def with_both(what):
        return sum(bool(after.masks[kinds].any((1, 2, 3)).all()) for after in drawn(10, patch(), what))

    assert with_both(one) == 0
    assert with_both(several) >= 4

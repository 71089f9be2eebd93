"""Patches are what the store holds, the same for the same draw, and balanced over data sets and classes."""

import pickle
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from small_stores import LIVER, LIVER_TUMOR, SHAPE, store_case
from torch.utils.data import DataLoader

from dsmseg.datasets.patches import Balance, Draw, PatchDataset, PatchSampler, collate
from dsmseg.datasets.store import StoredCase
from dsmseg.errors import InputError


@pytest.fixture
def case(tmp_path) -> StoredCase:
    return store_case(tmp_path)


def test_a_patch_is_the_part_of_the_scan_that_it_says(case) -> None:
    patches = PatchDataset([case], size=(16, 24, 8))
    for seed in range(20):
        patch = patches[Draw(0, LIVER_TUMOR if seed % 2 else None, seed)]
        box = tuple(slice(first, first + width) for first, width in zip(patch.start, (16, 24, 8), strict=True))
        hu = patch.image[0].numpy() * 425 - 175
        np.testing.assert_allclose(hu, case.image[:][box], atol=1e-3)
        np.testing.assert_array_equal(patch.codes, case.codes[:][box])
        assert 0 <= patch.image.min() <= patch.image.max() <= 1


def test_a_patch_centered_on_a_class_shows_it(case) -> None:
    patches = PatchDataset([case], size=(16, 16, 16))
    for seed in range(30):
        assert patches[Draw(0, LIVER_TUMOR, seed)].masks()[LIVER_TUMOR - 1].any()


def test_masks_are_the_classes_and_nothing_that_is_not_annotated(case) -> None:
    patch = PatchDataset([case], size=SHAPE)[Draw(0, None, 0)]
    masks = patch.masks().numpy()
    for class_id in (2, 3, LIVER, LIVER_TUMOR):
        np.testing.assert_array_equal(masks[class_id - 1], case.mask(class_id))
    assert np.flatnonzero(patch.annotated).tolist() == [1, 2, LIVER - 1, LIVER_TUMOR - 1]
    assert not masks[~patch.annotated.numpy()].any()
    assert (masks[LIVER_TUMOR - 1] <= masks[LIVER - 1]).all()


def test_a_case_smaller_than_a_patch_is_padded_with_air_on_both_sides(case) -> None:
    patch = PatchDataset([case], size=(80, 64, 64))[Draw(0, None, 3)]
    assert patch.start == (-10, -7, -12)
    inner = (slice(10, 70), slice(7, 57), slice(12, 52))
    np.testing.assert_array_equal(patch.codes[inner], case.codes[:])
    outside = torch.ones(80, 64, 64, dtype=torch.bool)
    outside[inner] = False
    assert not patch.image[0][outside].any()
    assert not patch.codes[outside].any()


def test_several_windows_are_several_channels_of_the_same_voxels(tmp_path) -> None:
    case = store_case(tmp_path, window=(-1000.0, 1000.0))
    patch = PatchDataset([case], size=SHAPE, hu_windows=((-175, 250), (-1000, 1000)))[Draw(0, None, 0)]
    hu = case.image[:].astype(np.float32)
    np.testing.assert_allclose(patch.image[0], np.clip((hu + 175) / 425, 0, 1), atol=1e-5)
    np.testing.assert_allclose(patch.image[1], np.clip((hu + 1000) / 2000, 0, 1), atol=1e-5)


@pytest.mark.parametrize("window", [(-1000.0, 250.0), (-175.0, 300.0), (100.0, 0.0)])
def test_a_window_that_the_store_was_clipped_to_is_refused(case, window) -> None:
    with pytest.raises(InputError, match="does not lie in that of the store"):
        PatchDataset([case], hu_windows=[window])


def test_no_cases_are_refused() -> None:
    with pytest.raises(InputError, match="no cases"):
        PatchDataset([])


def test_draws_follow_from_the_seed_and_their_number_alone(tmp_path) -> None:
    cases = [store_case(tmp_path, case=str(index)) for index in range(3)]
    every = list(PatchSampler(cases, draws=40, seed=5))
    assert list(PatchSampler(cases, draws=40, seed=5, start=17)) == every[17:]
    shared = [list(PatchSampler(cases, draws=40, seed=5, rank=rank, ranks=3)) for rank in range(3)]
    assert [shared[index % 3][index // 3] for index in range(40)] == every
    assert [len(PatchSampler(cases, draws=40, rank=rank, ranks=3)) for rank in range(3)] == [14, 13, 13]
    assert list(PatchSampler(cases, draws=40, seed=6)) != every


def test_rare_classes_come_as_often_as_large_ones(tmp_path) -> None:
    case = store_case(tmp_path)
    drawn = Counter(one.class_id for one in PatchSampler([case], draws=4000))
    share = {class_id: count / 4000 for class_id, count in drawn.items()}
    assert share[None] == pytest.approx(1 / 8, abs=0.03)
    assert share[LIVER_TUMOR] == pytest.approx(5 / 8, abs=0.03)
    for organ in (2, 3, LIVER):
        assert share[organ] == pytest.approx(2 / 8 / 3, abs=0.02)


def test_patches_can_be_centered_on_some_organs_alone(tmp_path) -> None:
    case = store_case(tmp_path)
    drawn = Counter(one.class_id for one in PatchSampler([case], draws=400, balance=Balance(organs=frozenset({LIVER}))))
    assert set(drawn) == {None, LIVER, LIVER_TUMOR}
    assert drawn[LIVER] / 400 == pytest.approx(2 / 8, abs=0.08)


def test_a_class_is_drawn_from_cases_that_show_it(tmp_path) -> None:
    cases = [store_case(tmp_path, case="0", tumor=False), store_case(tmp_path, case="1", tumor=True)]
    assert {one.case for one in PatchSampler(cases, draws=300) if one.class_id == LIVER_TUMOR} == {1}


def test_data_sets_are_drawn_by_a_power_of_their_size(tmp_path) -> None:
    cases = [store_case(tmp_path, "lits", str(index)) for index in range(9)] + [store_case(tmp_path, "kits19", "1")]
    for power, expected in ((1.0, 0.1), (0.5, 0.25), (0.0, 0.5)):
        drawn = list(PatchSampler(cases, draws=3000, balance=Balance(dataset_power=power)))
        assert sum(one.case == 9 for one in drawn) / 3000 == pytest.approx(expected, abs=0.03)


def test_data_sets_with_tumors_are_drawn_more_often_where_asked(tmp_path) -> None:
    cases = [store_case(tmp_path, name, "1", tumor=name == "lits") for name in ("lits", "word", "chaos")]
    for factor, expected in ((1.0, 1 / 3), (4.0, 2 / 3)):
        drawn = list(PatchSampler(cases, draws=3000, balance=Balance(with_tumors=factor)))
        assert sum(one.case == 0 for one in drawn) / 3000 == pytest.approx(expected, abs=0.03)


def test_a_loader_s_workers_give_the_same_batches_as_none(tmp_path) -> None:
    merged = ((2, 3),)
    cases = [store_case(tmp_path, case="0", merged=merged), store_case(tmp_path, case="1")]
    dataset = PatchDataset(cases, size=(16, 16, 16))

    def batches(workers):
        sampler = PatchSampler(cases, draws=6, seed=1)
        return list(DataLoader(dataset, batch_size=2, sampler=sampler, num_workers=workers, collate_fn=collate))

    dataset[Draw(0, None, 0)]  # what is open here is not handed on
    for one, other in zip(batches(0), batches(1), strict=True):
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.labels.masks, other.labels.masks)
        assert torch.equal(one.labels.annotated, other.labels.annotated)
        assert (one.cases, one.labels.merged) == (other.cases, other.labels.merged)
        expected = {index for index, name in enumerate(one.cases) if name == "lits/0"}
        assert {item for item, _, _ in one.labels.merged} == expected
        assert all((left, right) == (2, 1) for _, left, right in one.labels.merged)


def test_a_sampler_draws_different_places(case) -> None:
    dataset = PatchDataset([case], size=(16, 16, 16))
    starts = [dataset[draw].start for draw in PatchSampler([case], draws=20)]
    assert all(one != other for one, other in pairwise(starts))


def test_a_data_set_can_be_handed_to_another_process_after_its_cases_were_read(case) -> None:
    case.image[:1, :1, :1]
    dataset = pickle.loads(pickle.dumps(PatchDataset([case], size=(16, 16, 16))))  # noqa: S301
    expected = PatchDataset([case], size=(16, 16, 16))[Draw(0, None, 1)]
    assert torch.equal(dataset[Draw(0, None, 1)].image, expected.image)

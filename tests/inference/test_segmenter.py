"""From a scan on disk to labels on its own grid, with a network whose truth is known."""

import nibabel
import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from dsmseg.errors import InputError, WeightsError
from dsmseg.inference import Segmenter
from dsmseg.inference.choosing import choose_classes
from dsmseg.taxonomy import find
from dsmseg.volume import read_scan

LIVER, SPLEEN, AORTA, LIVER_TUMOR = (find(name).id for name in ("liver", "spleen", "aorta", "liver tumor"))
TUMOR_HU = 350.0


@pytest.fixture
def segmenter(make_network, make_card):
    return Segmenter(make_network(), make_card(), device="cpu")


@pytest.fixture
def with_tumors(make_network, make_card):
    card = make_card(stage=2, tumors=("Liver Tumor",))
    return Segmenter(make_network(stage=2), card, device="cpu")


def truth(hu) -> np.ndarray:
    labels = np.zeros(hu.shape, dtype=np.uint8)
    for identity, center in ((LIVER, 300), (SPLEEN, 500), (AORTA, 700)):
        labels[np.abs(hu - center) < 100] = identity
    return labels


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "SAR", "PIR", "ILA"])
def test_labels_land_on_the_scans_own_grid_whatever_its_axes(segmenter, phantom, write_scan, tmp_path, axcodes):
    hu = phantom()
    path = write_scan(hu, axcodes=axcodes)
    segmentation = segmenter(path)
    assert np.array_equal(segmentation.organs, truth(hu))

    folder = segmentation.save(tmp_path / "result")
    scan, labels = nibabel.load(path), nibabel.load(folder / "organs.nii.gz")
    assert labels.shape == scan.shape
    np.testing.assert_allclose(labels.affine, scan.affine)
    assert np.array_equal(np.asarray(labels.dataobj), truth(np.asarray(scan.dataobj)))


def test_at_another_spacing_labels_are_off_by_less_than_a_working_voxel(segmenter, phantom, write_scan):
    fine = np.repeat(np.repeat(phantom(), 3, axis=0), 3, axis=1)
    path = write_scan(fine, axcodes="LPI", spacing=(1, 1, 3))
    organs = segmenter(path).organs
    assert organs.shape == fine.shape
    for identity in (LIVER, SPLEEN):
        expected = truth(fine) == identity
        found = organs == identity
        assert not (found & ~ndimage.binary_dilation(expected, iterations=3)).any()
        assert found[ndimage.binary_erosion(expected, iterations=3)].all()


def test_a_network_that_sees_liver_everywhere_is_held_inside_of_the_body(liver_everywhere, make_card, write_scan):
    hu = np.full((150, 150, 60), -1000, dtype=np.float32)
    hu[60:100, 50:90, 5:55] = 40
    segmentation = Segmenter(liver_everywhere, make_card(), device="cpu")(write_scan(hu))
    assert np.array_equal(segmentation.organs == LIVER, hu > 0)
    assert not segmentation.unexplained[hu < 0].any()
    assert segmentation.unexplained[hu > 0].max() > 0.9


def test_a_scan_of_air_has_no_labels_and_says_so(segmenter, write_scan):
    hu = np.random.default_rng(0).normal(-1000, 10, (40, 40, 40)).astype(np.float32)
    segmentation = segmenter(write_scan(hu))
    assert not segmentation.organs.any()
    assert not segmentation.anomaly.any()
    assert not segmentation.unexplained.any()
    assert segmentation.run["body_ml"] == 0
    assert segmentation.run["windows"] == 0
    assert all(row["volume_ml"] == 0 for row in segmentation.statistics()["organs"])


def test_a_scan_thinner_than_a_window_works(segmenter, phantom, write_scan):
    hu = phantom((48, 40, 36))[:, :, 10:14]
    assert np.array_equal(segmenter(write_scan(hu)).organs, truth(hu))


def test_the_network_gets_windows_of_the_cards_size_and_one_channel_a_hu_window(make_network, make_card, phantom):
    network = make_network()
    card = make_card(hu_windows=((-1000, 1000), (-160, 240)), window=(32, 64, 32))
    Segmenter(network, card, device="cpu")(phantom(), np.diag([3.0, 3, 3, 1]))
    assert set(network.seen) == {(1, 2, 32, 64, 32)}


def test_an_array_a_volume_and_a_file_give_the_same(segmenter, phantom, write_scan):
    path = write_scan(phantom(), axcodes="LIP")
    image = nibabel.load(path)
    from_file = segmenter(path)
    from_array = segmenter(np.asarray(image.dataobj).astype(np.int16), image.affine)
    from_volume = segmenter(read_scan(path))
    for other in (from_array, from_volume):
        assert np.array_equal(other.organs, from_file.organs)
        assert np.array_equal(other.anomaly, from_file.anomaly)
        assert np.array_equal(other.unexplained, from_file.unexplained)


def test_the_same_scan_gives_the_same_result(segmenter, phantom, write_scan):
    path = write_scan(phantom(), spacing=(2.1, 2.3, 2.7))
    first, second = segmenter(path), segmenter(path)
    assert np.array_equal(first.organs, second.organs)
    assert np.array_equal(first.anomaly, second.anomaly)
    assert first.statistics() == second.statistics()


def test_restricted_classes_are_the_full_result_without_the_others(make_network, make_card, phantom, write_scan):
    path = write_scan(phantom(), spacing=(2, 2, 3))
    full = Segmenter(make_network(), make_card(), device="cpu")(path)
    some = Segmenter(make_network(), make_card(), device="cpu", classes=["liver", "aorta"])(path)
    assert np.array_equal(some.organs, np.where(np.isin(full.organs, [LIVER, AORTA]), full.organs, 0))
    assert [row["name"] for row in some.statistics()["organs"]] == ["Liver", "Aorta"]
    assert some.run["classes"] == ["Liver", "Aorta"]


@pytest.mark.parametrize("classes", [["pancreas"], "liver, pancreas", ["tumors"]])
def test_a_class_that_the_weights_do_not_know_is_told_with_those_they_know(make_network, make_card, classes):
    with pytest.raises(InputError, match="They answer for: Spleen, Liver, Aorta"):
        Segmenter(make_network(), make_card(), device="cpu", classes=classes)


@pytest.mark.parametrize("classes", ["", [], ["leever"]])
def test_no_class_or_one_that_does_not_exist_is_told(make_network, make_card, classes):
    with pytest.raises(InputError):
        Segmenter(make_network(), make_card(), device="cpu", classes=classes)


@pytest.mark.parametrize("overlap", [-0.1, 0.95, float("nan")])
def test_an_overlap_that_makes_no_sense_is_told(make_network, make_card, overlap):
    with pytest.raises(InputError, match="overlap"):
        Segmenter(make_network(), make_card(), device="cpu", overlap=overlap)


def test_weights_that_do_not_exist_are_told():
    with pytest.raises(WeightsError, match="no packaged weights"):
        Segmenter.load("no-such-weights")


@pytest.mark.parametrize(
    ("array", "affine", "message"),
    [
        (np.zeros((4, 4, 4)), None, "no place in space"),
        (np.zeros((4, 4)), np.eye(4), "2 axes"),
        (np.zeros((0, 4, 4)), np.eye(4), "no scan"),
        (np.zeros((4, 4, 4), dtype=complex), np.eye(4), "no scan"),
        (np.full((4, 4, 4), np.nan), np.eye(4), "NaN"),
        (np.zeros((4, 4, 4)), np.zeros((4, 4)), "affine"),
    ],
)
def test_arrays_that_are_no_scans_are_told(segmenter, array, affine, message):
    with pytest.raises(InputError, match=message):
        segmenter(array, affine)


def test_a_tumor_does_not_erase_its_organ_and_is_a_lesion_in_it(with_tumors, phantom, write_scan):
    hu = phantom()
    hu[12:16, 16:20, 16:20] = TUMOR_HU
    segmentation = with_tumors(write_scan(hu))
    tumor = hu == TUMOR_HU
    assert np.array_equal(segmentation.tumors, np.where(tumor, LIVER_TUMOR, 0))
    assert (segmentation.organs[tumor] == LIVER).all()
    (lesion,) = segmentation.lesions
    assert (lesion.name, lesion.host) == ("Liver Tumor", "Liver")
    assert lesion.volume_ml == pytest.approx(64 * 0.027)
    assert lesion.centroid_mm == pytest.approx((-70 + 3 * 13.5, 20 + 3 * 17.5, 900 + 3 * 17.5))
    assert lesion.mean_score > 0.9
    assert segmentation.run["tumors"] == "searched"


def test_a_tumor_far_from_its_host_is_none(with_tumors, phantom, write_scan):
    hu = phantom()
    hu[38:42, 30:34, 16:20] = TUMOR_HU  # HU 350 reads as liver too, but as a fragment of it
    segmentation = with_tumors(write_scan(hu))
    assert not segmentation.tumors.any()
    assert segmentation.lesions == []


def faint(phantom, offset=33):
    """Draw a tumor of 64 voxels whose probability is sigmoid((30 - offset) / 3)."""
    hu = phantom()
    hu[12:16, 16:20, 16:20] = TUMOR_HU + offset
    return hu


def at_point(make_network, make_card, *, classes=None, **point):
    card = make_card(stage=2, tumors=("Liver Tumor", "Kidney Tumor"), operating_points={"Liver Tumor": point})
    return Segmenter(make_network(stage=2), card, device="cpu", classes=classes)


@pytest.mark.parametrize(("threshold", "found"), [(0.2, True), (0.35, False), (0.9, False)])
def test_a_tumor_is_labeled_above_the_threshold_of_its_class_on_the_card(
    make_network, make_card, phantom, write_scan, threshold, found
):
    hu = faint(phantom)
    segmentation = at_point(make_network, make_card, threshold=threshold)(write_scan(hu))
    assert np.array_equal(segmentation.tumors == LIVER_TUMOR, (np.abs(hu - TUMOR_HU) < 40) & found)
    assert [lesion.mean_score for lesion in segmentation.lesions] == pytest.approx([0.269] * found, abs=0.005)
    assert segmentation.run["operating_points"]["Liver Tumor"]["threshold"] == threshold


@pytest.mark.parametrize(
    ("least", "found"),
    [
        ({"least_volume_ml": 64 * 0.027 - 0.01}, True),
        ({"least_volume_ml": 64 * 0.027 + 0.01}, False),
        ({"least_score": 0.25}, True),
        ({"least_score": 0.29}, False),
    ],
)
def test_lesions_below_the_least_volume_or_score_are_in_neither_labels_nor_table(
    make_network, make_card, phantom, write_scan, least, found
):
    segmentation = at_point(make_network, make_card, threshold=0.2, **least)(write_scan(faint(phantom)))
    assert len(segmentation.lesions) == found
    assert (segmentation.tumors > 0).sum() == 64 * found
    assert (segmentation.organs == LIVER).sum() == (truth(phantom()) == LIVER).sum()  # a tumor never erases its organ


def test_a_class_that_the_card_says_is_not_searched_is_left_out_unless_it_is_asked_for(
    make_network, make_card, phantom, write_scan
):
    point, path = {"threshold": 0.2, "searched": False, "reason": "too few are found"}, write_scan(faint(phantom))
    left_out = at_point(make_network, make_card, **point)(path)
    assert not left_out.tumors.any()
    assert left_out.run["not_searched"] == {"Liver Tumor": "too few are found"}
    assert [row["name"] for row in left_out.statistics()["tumors"]] == ["Kidney Tumor"]
    asked = at_point(make_network, make_card, classes="liver tumor", **point)(path)
    assert (asked.tumors == LIVER_TUMOR).sum() == 64
    assert asked.run["not_searched"] == {}


def test_where_no_tumor_is_to_be_searched_the_run_says_so(make_network, make_card, phantom, write_scan):
    points = {"Liver Tumor": {"searched": False, "reason": "too few are found"}}
    card = make_card(stage=2, tumors=("Liver Tumor",), operating_points=points)
    segmentation = Segmenter(make_network(stage=2), card, device="cpu")(write_scan(phantom()))
    assert "the card says" in segmentation.run["tumors"]
    assert segmentation.lesions == []


def test_restricting_the_organs_away_does_not_change_a_lesions_host(make_network, make_card, phantom, write_scan):
    hu = phantom()
    hu[12:16, 16:20, 16:20] = TUMOR_HU
    card = make_card(stage=2, tumors=("Liver Tumor",))
    segmentation = Segmenter(make_network(stage=2), card, device="cpu", classes=["tumors"])(write_scan(hu))
    assert not segmentation.organs.any()
    assert [lesion.host for lesion in segmentation.lesions] == ["Liver"]


def test_stage_1_says_plainly_that_tumors_were_not_searched(segmenter, phantom, write_scan):
    segmentation = segmenter(write_scan(phantom()))
    assert not segmentation.tumors.any()
    said = "not searched: these weights hold Stage 1 only"
    assert segmentation.run["tumors"] == said
    assert segmentation.statistics()["tumors"] == said


def test_the_run_tells_what_ran(segmenter, phantom, write_scan):
    path = write_scan(phantom(), axcodes="LPS", spacing=(3, 3, 2.5))
    run = segmenter(path).run
    assert run["weights"] == {"name": "threshold", "version": "1", "sha256": "0" * 64}
    assert run["input"]["name"] == "ct.nii.gz"
    assert run["input"]["shape"] == [48, 40, 36]
    assert run["input"]["spacing_mm"] == pytest.approx([3, 3, 2.5])
    np.testing.assert_allclose(run["input"]["affine"], nibabel.load(path).affine)
    assert (run["device"], run["overlap"], run["stage"]) == ("cpu", 0.25, 1)
    assert set(run["seconds"]) == {"read", "prepare", "network", "postprocess", "restore"}


def test_memory_that_runs_out_is_told(make_card, phantom, write_scan):
    class TooLarge(nn.Module):
        def forward(self, image):
            return torch.empty(2**52)

    with pytest.raises(InputError, match="memory ran out for this scan"):
        Segmenter(TooLarge(), make_card(), device="cpu")(write_scan(phantom()))


def test_a_kind_without_labels_is_looked_for_by_its_name_alone_and_the_record_says_so(make_network, make_card, phantom):
    card = make_card(stage=2, tumors=["Liver Tumor"])
    vessel = "Hepatic Vessel Tumor"
    assert vessel in {one.name for one in card.unseen}
    usual = choose_classes(card, None)
    assert vessel not in {one.name for one in usual.classes}
    assert [one.name for one in choose_classes(card, "tumors").classes] == ["Liver Tumor"]
    asked = choose_classes(card, f"liver, {vessel}")
    assert [one.name for one in asked.classes] == ["Liver", vessel]
    assert [one.id for one in asked.classes] == sorted(one.id for one in asked.classes)

"""NSD and HD95 beside DeepMind's surface-distance, and on shapes with known answers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shapes import ball, blob, cube

from dsmseg.errors import InputError
from dsmseg.evaluation.surface_elements import element_areas, surface_elements
from dsmseg.evaluation.surfaces import surface_distances

SPACINGS = [(1.0, 1.0, 1.0), (0.7, 0.8, 2.5), (3.0, 1.0, 1.7)]
PEER = "ignore:.*namespace is deprecated.*:DeprecationWarning"


@pytest.mark.parametrize("spacing", SPACINGS)
def test_areas_are_those_of_surface_distance(spacing) -> None:
    tables = pytest.importorskip("surface_distance.lookup_tables")
    peer = tables.create_table_neighbour_code_to_surface_area(spacing)
    kernel = tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL.ravel()
    ours = element_areas(spacing)
    for code in range(256):
        theirs = sum(int(kernel[bit]) for bit in range(8) if code >> bit & 1)
        assert ours[code] == pytest.approx(peer[theirs], abs=1e-12)


@pytest.mark.filterwarnings(PEER)
@given(st.integers(0, 10_000), st.sampled_from(SPACINGS), st.sampled_from([0.0, 1.0, 2.4, 5.0]))
def test_agrees_with_surface_distance(seed: int, spacing, tolerance: float) -> None:
    peer = pytest.importorskip("surface_distance")
    reference, prediction = blob(seed), blob(seed + 1) | np.roll(blob(seed), 1, axis=seed % 3)
    ours = surface_distances(reference, prediction, spacing)
    theirs = peer.compute_surface_distances(reference, prediction, spacing)
    # Theirs counts a distance that equals the tolerance but for rounding as beyond it.
    nsd = peer.compute_surface_dice_at_tolerance(theirs, tolerance + 1e-6)
    assert ours.nsd(tolerance) == pytest.approx(nsd, abs=1e-9)
    for percent in (50, 95, 100):
        assert ours.hausdorff(percent) == pytest.approx(peer.compute_robust_hausdorff(theirs, percent), abs=1e-9)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_agrees_with_monai() -> None:
    import torch
    from monai.metrics import DiceMetric, SurfaceDiceMetric, compute_hausdorff_distance

    from dsmseg.evaluation.overlap import count_overlap

    reference, prediction, spacing = blob(0), np.roll(blob(0), 2, axis=0), (0.7, 0.8, 2.5)
    ours = surface_distances(reference, prediction, spacing)
    first, second = (torch.from_numpy(one)[None, None].float() for one in (reference, prediction))
    metric = SurfaceDiceMetric(class_thresholds=[1.4], include_background=True, use_subvoxels=True)
    assert ours.nsd(1.4) == pytest.approx(metric(second, first, spacing=spacing).item(), abs=1e-5)
    # Largest distances between middles of border voxels, not of elements of surface: up to a voxel apart.
    theirs = compute_hausdorff_distance(second, first, include_background=True, spacing=spacing).item()
    assert ours.hausdorff(100) == pytest.approx(theirs, abs=np.linalg.norm(spacing))
    assert count_overlap(reference, prediction).dsc == pytest.approx(DiceMetric()(second, first).item(), abs=1e-6)


def test_a_shifted_cube_is_as_far_as_it_was_shifted() -> None:
    shape, spacing = (40, 30, 30), (2.0, 1.0, 1.0)
    one, other = cube(shape, (5, 15), (5, 15), (5, 15)), cube(shape, (8, 18), (5, 15), (5, 15))
    distances = surface_distances(one, other, spacing)
    assert distances.hausdorff(100) == pytest.approx(6.0)
    assert distances.nsd(6.0) == 1.0
    assert 0 < distances.nsd(0) < 1


def test_the_surface_of_a_large_ball_is_that_of_a_sphere() -> None:
    spacing = (1.0, 1.0, 1.6)
    mask = ball((70, 70, 46), (35, 35, 23), 30, spacing)
    # Cutting corners at voxel middles makes a sphere some percent rough.
    assert surface_elements(mask, spacing).areas.sum() == pytest.approx(4 * np.pi * 30**2, rel=0.12)


def test_areas_of_axis_parallel_faces_are_exact_but_for_their_edges() -> None:
    areas = element_areas((2.0, 3.0, 5.0))
    assert areas[0b00001111] == pytest.approx(15.0)  # a face across x
    assert areas[0b00110011] == pytest.approx(10.0)
    assert areas[0b01010101] == pytest.approx(6.0)
    assert areas[0] == areas[255] == 0


@given(st.integers(0, 1000), st.sampled_from(SPACINGS))
def test_equal_masks_have_no_distance_and_swapping_makes_no_difference(seed: int, spacing) -> None:
    one, other = blob(seed), blob(seed + 7)
    assert surface_distances(one, one, spacing).hausdorff() == 0
    assert surface_distances(one, one, spacing).nsd(0) == 1
    forth, back = surface_distances(one, other, spacing), surface_distances(other, one, spacing)
    assert forth.nsd(1) == pytest.approx(back.nsd(1))
    assert forth.hausdorff() == pytest.approx(back.hausdorff())


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int64, np.bool_])
def test_type_and_layout_make_no_difference(kind) -> None:
    one, other = blob(1), blob(2)
    expected = surface_distances(one, other, (1, 2, 3)).nsd(1)
    wide = np.zeros((48, 20, 36), kind)
    wide[::2, :, ::-2] = other * 1
    assert surface_distances(np.asfortranarray(one), wide[::2, :, ::-2], (1, 2, 3)).nsd(1) == expected


@pytest.mark.parametrize(
    "mask",
    [np.ones((6, 6, 6), bool), cube((6, 6, 6), (0, 1), (0, 1), (0, 1)), cube((6, 6, 6), (5, 6), (0, 6), (0, 6))],
    ids=["full", "one voxel in the corner", "a slice at the border"],
)
def test_masks_at_the_border_have_a_closed_surface(mask) -> None:
    distances = surface_distances(mask, np.ones((6, 6, 6), bool), (1, 1, 1))
    assert np.isfinite(distances.hausdorff())
    padded = surface_elements(np.pad(mask, 3), (1, 1, 1))
    assert padded.areas.sum() == pytest.approx(surface_elements(mask, (1, 1, 1)).areas.sum())


@pytest.mark.parametrize(
    ("one", "other", "word"),
    [
        (np.ones((4, 4, 4), bool), np.ones((4, 4, 5), bool), "shape"),
        (np.ones((4, 4), bool), np.ones((4, 4), bool), "axes"),
        (np.ones((4, 4, 4), bool), np.ones((4, 4, 4), np.float32), "mask"),
        (np.ones((4, 4, 4), bool), np.zeros((4, 4, 4), bool), "empty"),
    ],
)
def test_what_has_no_surfaces_is_refused(one, other, word: str) -> None:
    with pytest.raises(InputError, match=word):
        surface_distances(one, other, (1, 1, 1))


@pytest.mark.parametrize("tolerance", [-1, np.nan, np.inf])
def test_a_tolerance_that_is_no_length_is_refused(tolerance: float) -> None:
    with pytest.raises(InputError, match="tolerance"):
        surface_distances(blob(1), blob(2), (1, 1, 1)).nsd(tolerance)

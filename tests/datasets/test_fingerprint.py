"""A scan's fingerprint finds its copies, however they were turned, mirrored, resampled or stored, and nothing else."""

from itertools import combinations, permutations, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native_trees import make_body
from scipy import ndimage

from dsmseg.datasets.fingerprint import SAME, SIDE, find_copies, fingerprint
from dsmseg.report.demo import shipped
from dsmseg.volume import Volume, read_scan, resample

TURNS = list(product(permutations(range(3)), product((1, -1), repeat=3)))
SHARED = Path(__file__).parents[3] / "shared" / "data"
REAL = ("slicerio", "abdomen_3mm/ct.nii.gz", "dicom_series/ct", "chest_lidc0001/ct.nii.gz")


def turned(array, turn):
    order, signs = turn
    return array.transpose(order)[tuple(slice(None, None, sign) for sign in signs)]


def resampled(volume, spacing):
    return resample(volume, spacing).array


@pytest.fixture(scope="module")
def bodies():
    """Give generated scans of twelve patients at two regions."""
    found = {}
    for seed in range(12):
        region = ("trunk", "abdomen")[seed % 2]
        body = make_body(seed, region)
        found[f"{region}/{seed}"] = Volume.from_own(body.hu.astype(np.float32), body.affine)
    return found


@pytest.fixture(scope="module")
def scans():
    """Give the real scans that are here; that of slicerio always is."""
    found = {"slicerio": read_scan(shipped("CTChest4.nrrd"))}
    found |= {name: read_scan(SHARED / name) for name in REAL[1:] if (SHARED / name).exists()}
    return found


def copies_of(original, others):
    """Give the names of those that are taken for copies of one scan."""
    one = fingerprint(original)
    return {name for name, other in others.items() if find_copies({"one": one, "other": fingerprint(other)})}


def test_a_fingerprint_is_a_small_cube_of_bytes(bodies):
    one = fingerprint(next(iter(bodies.values())).array)
    assert one.shape == (SIDE,) * 3
    assert one.dtype == np.int8


def test_the_same_scan_has_the_same_fingerprint_in_any_type_and_order_of_memory(bodies):
    array = next(iter(bodies.values())).array
    expected = fingerprint(array)
    for same in (array.astype(np.int16), array.astype(np.float64), np.asfortranarray(array)):
        np.testing.assert_array_equal(fingerprint(same), expected)


@pytest.mark.parametrize("name", REAL)
def test_every_way_to_turn_or_mirror_a_real_scan_is_found(scans, name):
    if name not in scans:
        pytest.skip("this scan is not here")
    array = scans[name].array
    original = fingerprint(array)
    for number in range(0, len(TURNS), 7):
        ((_, _, likeness),) = find_copies({"one": original, "other": fingerprint(turned(array, TURNS[number]))})
        assert likeness > 0.99


def test_all_48_ways_to_turn_or_mirror_are_found(bodies):
    array = next(iter(bodies.values())).array
    original = fingerprint(array)
    for turn in TURNS:
        assert find_copies({"one": original, "other": fingerprint(turned(array, turn))}), turn


@pytest.mark.parametrize("name", REAL)
def test_resampled_and_noisy_and_clipped_copies_of_a_real_scan_are_found(scans, name):
    if name not in scans:
        pytest.skip("this scan is not here")
    scan = scans[name]
    coarse = resample(scan, (3.0, 3.0, max(3.0, scan.spacing[2]))).array
    noise = np.random.default_rng(0).normal(0, 20, coarse.shape)
    others = {
        "3 mm": coarse,
        "5 mm": resample(scan, (5.0, 5.0, 5.0)).array,
        "anisotropic": resample(scan, (3.0, 4.0, 6.0)).array,
        "noisy": coarse + noise,
        "blurred": ndimage.gaussian_filter(coarse, 0.7),
        "padded with -2048": np.where(coarse <= -1000, -2048, coarse),
        "clipped to 12 bits": np.clip(coarse, -1024, 3071),
        "turned and noisy": turned((coarse + noise).astype(np.float32), TURNS[29]),
    }
    assert copies_of(scan.array, others) == set(others)


def test_different_real_scans_are_no_copies(scans):
    if len(scans) < 2:
        pytest.skip("there is one real scan only")
    assert find_copies({name: fingerprint(one.array) for name, one in scans.items()}) == []


def test_different_bodies_are_no_copies_in_any_region_or_order_of_axes(bodies):
    prints = {name: fingerprint(one.array) for name, one in bodies.items()}
    assert find_copies(prints) == []
    some = list(prints)[:6]
    prints = {name: prints[name] if number % 2 else turned(prints[name], TURNS[11]) for number, name in enumerate(some)}
    assert find_copies(prints) == []


def test_half_a_scan_is_no_copy_of_the_whole(bodies):
    array = bodies["trunk/0"].array
    assert copies_of(array, {"upper": array[:, :, array.shape[2] // 2 :]}) == set()


def test_many_copies_are_found_pair_by_pair_in_the_order_of_their_names(bodies):
    names = list(bodies)
    array, other = bodies[names[0]], bodies[names[2]]
    prints = {
        "b": fingerprint(array.array),
        "lone": fingerprint(bodies[names[4]].array),
        "other 2": fingerprint(resampled(other, (6.0, 6.0, 6.0))),
        "a": fingerprint(turned(array.array, TURNS[5])),
        "other 1": fingerprint(other.array),
        "c": fingerprint(resampled(array, (6.0, 5.0, 6.0))),
    }
    found = find_copies(prints)
    assert [pair[:2] for pair in found] == [("b", "a"), ("b", "c"), ("other 2", "other 1"), ("a", "c")]
    assert all(SAME <= likeness <= 1 for *_, likeness in found)
    # Whoever comes first, the same pairs are found.
    backwards = find_copies(dict(reversed(prints.items())))
    assert {frozenset(pair[:2]) for pair in backwards} == {frozenset(pair[:2]) for pair in found}


def test_every_pair_of_many_copies_is_found(bodies):
    volume = next(iter(bodies.values()))
    prints = {f"{number}": fingerprint(turned(volume.array, TURNS[5 * number])) for number in range(9)}
    assert [pair[:2] for pair in find_copies(prints)] == list(combinations(prints, 2))


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_scans_have_no_copies(count):
    assert find_copies({str(one): np.zeros((SIDE,) * 3, np.int8) for one in range(count)}) == []


@pytest.mark.parametrize("hu", [-1000.0, 0.0, 37.3, 3000.0])
def test_a_constant_volume_is_nobodys_copy(bodies, hu):
    prints = {name: fingerprint(one.array) for name, one in bodies.items()}
    constants = {
        "one constant": fingerprint(np.full((40, 30, 20), hu, np.float32)),
        "another": fingerprint(np.full((40, 30, 20), hu, np.float32)),
        "a third": fingerprint(np.full((33, 50, 21), hu, np.float32)),
    }
    assert find_copies(prints | constants) == []


@settings(max_examples=30)
@given(st.tuples(*[st.integers(2, 40)] * 3), st.integers(0, 2**31))
def test_any_shape_has_a_fingerprint_that_finds_its_mirror_image(shape, seed):
    array = ndimage.gaussian_filter(np.random.default_rng(seed).normal(0, 900, shape), 1.0).astype(np.float32)
    one, other = fingerprint(array), fingerprint(array[::-1, :, ::-1])
    assert find_copies({"one": one, "other": other})[0][:2] == ("one", "other")


def test_a_fingerprint_does_not_depend_on_how_the_scan_lies_in_memory(bodies):
    array = next(iter(bodies.values())).array
    expected, before = fingerprint(array), array.copy()
    wide = np.zeros((array.shape[0], 2 * array.shape[1], array.shape[2]), array.dtype)
    wide[:, ::2] = array
    layouts = {
        "C": np.ascontiguousarray(array),
        "F": np.asfortranarray(array),
        "every second voxel of another": wide[:, ::2],
        "read only": np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape),
    }
    for axes in ((0,), (1,), (2,), (0, 1, 2)):
        layouts[f"negative strides {axes}"] = np.flip(np.flip(array, axes).copy(), axes)
    for order in permutations(range(3)):
        stored = np.ascontiguousarray(array.transpose(order))
        layouts[f"axes stored as {order}"] = stored.transpose(np.argsort(order))
    for name, same in layouts.items():
        np.testing.assert_array_equal(fingerprint(same), expected, err_msg=name)
    np.testing.assert_array_equal(array, before)


def test_bodies_are_no_copies_of_real_scans(bodies, scans):
    prints = {name: fingerprint(one.array) for name, one in (bodies | scans).items()}
    assert find_copies(prints) == []


@pytest.mark.parametrize("shape", [(33, 50, 21), (512, 512, 60), (12, 12, 12), (1, 1, 1)])
def test_constant_volumes_of_one_shape_are_no_copies_of_each_other(shape):
    prints = {f"{hu} HU": fingerprint(np.full(shape, hu, np.float32)) for hu in (-1024, -800, 0, 37.3, 400, 3000)}
    assert [pair[:2] for pair in find_copies(prints)] == []

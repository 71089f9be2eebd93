"""Tumors of the 20 kinds, in hosts made of ellipsoids, tubes and shells."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from dsmseg.errors import InputError
from dsmseg.synthesis.noise import generator
from dsmseg.synthesis.tumors import Neighbors, insert_tumor
from dsmseg.synthesis.tumors.grid import Box
from dsmseg.synthesis.tumors.interior import Look, fill
from dsmseg.synthesis.tumors.kinds import variants_of
from dsmseg.taxonomy import TUMORS, find

SPACINGS = [(3.0, 3.0, 3.0), (1.5, 1.5, 4.0)]
TUBES = ("Aortic Tumor", "Postcava Tumor Thrombus", "Portal Vein Tumor Thrombus", "Esophagus Tumor")
HOLLOW = ("Gall", "Stomach", "Duodenal", "Colon", "Small", "Rectal")
NOISE = 9.0


def scan(kind="Liver Tumor", spacing=(3.0, 3.0, 3.0), level=108.0, noise=NOISE, size=150.0):
    """Give an image and a host: an ellipsoid, a curved tube along z, or a shell around gas."""
    shape = [round(size / mm) for mm in spacing]
    x, y, z = np.meshgrid(
        *[(np.arange(n) - n / 2) * mm for n, mm in zip(shape, spacing, strict=True)], indexing="ij", sparse=True
    )
    image = np.full(shape, -95.0)
    if kind in TUBES:
        host = (x - 10 * np.sin(z / 30)) ** 2 + y**2 < 14**2
        host = host & (abs(z) < 0.42 * size)
    else:
        host = (x / 58) ** 2 + (y / 46) ** 2 + (z / 52) ** 2 < 1
    image[np.broadcast_to(host, shape)] = -850.0 if kind.startswith("Lung") else level
    if kind.startswith(HOLLOW):
        image[(x / 54) ** 2 + (y / 42) ** 2 + (z / 48) ** 2 < 1] = -400.0
    image += np.random.default_rng(3).normal(0, noise, shape)
    return image.astype(np.float32), np.ascontiguousarray(np.broadcast_to(host, shape))


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("kind", [one.name for one in TUMORS])
def test_every_kind_lies_in_its_host_and_tells_what_it_is(kind, spacing):
    image, host = scan(kind, spacing)
    for seed in range(3):
        tumor = insert_tumor(image, host, spacing, kind, seed)
        assert tumor.mask.any()
        assert not (tumor.mask & ~host).any()
        assert not (tumor.mask & ~tumor.host).any()
        assert np.isfinite(tumor.image).all()
        record = json.loads(json.dumps(tumor.record))
        assert (record["kind"], record["class_id"], record["seed"]) == (kind, find(kind).id, seed)
        assert sum(one["voxels"] for one in record["lesions"]) == tumor.mask.sum()
        volume = tumor.mask.sum() * np.prod(spacing) / 1000
        assert sum(one["volume_ml"] for one in record["lesions"]) == pytest.approx(volume, rel=1e-3)


def test_every_tumor_class_has_variants_with_known_features():
    known = {"necrosis", "ring", "calcification", "wall", "septa", "cavity", "ground_glass", "annular", "occlusive"}
    for kind in TUMORS:
        for variant in variants_of(kind):
            assert set(variant.features) <= known
            assert variant.diameter[2] < variant.diameter[0] < variant.diameter[3]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_tumor():
    image, host = scan()
    first, again, other = (insert_tumor(image, host, (3, 3, 3), "Liver Tumor", seed) for seed in (5, 5, 6))
    assert np.rint(first.image).astype(np.int16).tobytes() == np.rint(again.image).astype(np.int16).tobytes()
    assert first.mask.tobytes() == again.mask.tobytes()
    assert first.record == again.record
    assert (first.mask != other.mask).any()


def test_inputs_stay_as_they_are():
    image, host = scan()
    before = image.copy(), host.copy()
    insert_tumor(image, host, (3, 3, 3), "Liver Tumor", 0)
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(host, before[1])


def test_nothing_changes_far_from_the_tumor():
    image, host = scan()
    tumor = insert_tumor(image, host, (3, 3, 3), "Kidney Cyst", 1, diameter_mm=24)
    center = np.array(tumor.record["lesions"][0]["center_voxel"])
    far = np.linalg.norm(np.indices(image.shape).T - center, axis=-1).T > 12  # voxels: 36 mm
    np.testing.assert_array_equal(tumor.image[far], image[far])
    np.testing.assert_array_equal(tumor.host[far], host[far])
    assert (tumor.image[~far] != image[~far]).any()


@pytest.mark.parametrize(
    ("kind", "level", "phase", "sign"),
    [
        ("Liver Tumor", 108, "venous", -1),
        ("Spleen Tumor", 120, "venous", -1),
        ("Kidney Tumor", 180, "venous", -1),
        ("Postcava Tumor Thrombus", 140, "venous", -1),
        ("Lung Tumor", 0, "venous", 1),
        ("Colon Tumor", 0, "venous", 1),
    ],
)
def test_contrast_has_the_sign_of_the_table(kind, level, phase, sign):
    image, host = scan(kind, level=level, noise=3.0)
    changes = []
    for seed in range(8):
        tumor = insert_tumor(image, host, (3, 3, 3), kind, seed, phase=phase, diameter_mm=30)
        changes.append((tumor.image - image)[tumor.mask].mean())
    assert sign * np.median(changes) > 8  # one that holds chalk may come out otherwise


def test_a_cyst_is_near_water():
    image, host = scan(level=180)
    for seed in range(4):
        tumor = insert_tumor(image, host, (3, 3, 3), "Kidney Cyst", seed, phase="venous", diameter_mm=36)
        core = gaussian_filter(tumor.mask.astype(float), 1.0) > 0.95
        assert -8 < np.median(tumor.image[core]) < 32


@pytest.mark.parametrize(("features", "least"), [({"ring"}, 8), ({"necrosis"}, 15), ({"ring", "necrosis"}, 25)])
def test_a_ring_is_brighter_than_the_inside_and_necrosis_darker(features, least):
    box = Box((0, 0, 0), (40, 40, 40), (1.0, 1.0, 1.0))
    depths = 16.0 - box.radii(np.array([20.0, 20.0, 20.0]))
    variant = variants_of(find("Liver Tumor"))[0]
    for seed in range(5):
        look = Look(70.0, True, frozenset(features))
        values = fill(box, depths, variant, look, look.features, generator(seed))
        rim, core = values[(depths > 0) & (depths < 1.5)].mean(), values[depths > 13].mean()
        assert rim > core + least


@pytest.mark.parametrize("blur", [0.0, 0.8])
def test_noise_inside_is_that_of_the_host(blur):
    image, host = scan(noise=0)
    grain = gaussian_filter(np.random.default_rng(1).normal(0, 1, image.shape), blur)
    image += (12 * grain / grain.std()).astype(np.float32)
    seen = 0
    for kind, seed in [(kind, seed) for kind in ("Spleen Tumor", "Kidney Cyst") for seed in range(8)]:
        tumor = insert_tumor(image, host, (3, 3, 3), kind, seed, phase="venous", diameter_mm=40)
        if any(lesion["features"] for lesion in tumor.record["lesions"]):
            continue
        seen += 1
        core = gaussian_filter(tumor.mask.astype(float), 1.0) > 0.97
        steps = [np.diff(picture, axis=0)[core[1:] & core[:-1]].std() for picture in (tumor.image, image)]
        assert steps[0] == pytest.approx(steps[1], rel=0.3)
    assert seen >= 3


def test_volume_grows_with_the_diameter_asked_for():
    image, host = scan()
    for diameter in (12, 24, 40):
        tumor = insert_tumor(image, host, (3, 3, 3), "Spleen Tumor", 4, diameter_mm=diameter)
        for lesion in tumor.record["lesions"][:1]:
            assert lesion["diameter_mm"] == pytest.approx(diameter, rel=0.35)
            ball = np.pi / 6 * diameter**3 / 1000
            assert 0.3 * ball < lesion["volume_ml"] < 1.3 * ball


def test_lesions_shrink_to_a_small_host():
    image, host = scan(size=150)
    x, y, z = np.indices(image.shape) - 25
    host = host & (x * x + y * y + z * z < 16)
    tumor = insert_tumor(image, host, (3, 3, 3), "Liver Tumor", 0, diameter_mm=100)
    assert tumor.record["lesions"][0]["diameter_mm"] < 30
    assert tumor.record["requested_diameters_mm"] == [100, 100]


def test_the_mass_effect_pushes_outlines_and_keeps_the_set_of_labels():
    image, host = scan(level=180)
    labels = np.where(host, 7, 3).astype(np.int16)
    moved = 0
    for seed in range(8):
        tumor = insert_tumor(image, host, (3, 3, 3), "Kidney Cyst", seed, diameter_mm=40)
        pushed = tumor.pushed(labels)
        assert pushed.dtype == labels.dtype
        assert set(np.unique(pushed)) == {3, 7}
        np.testing.assert_array_equal((pushed == 7) | tumor.mask, tumor.host)
        moved += int((tumor.host & ~host).sum())
        near = np.zeros_like(host)
        for push in tumor.displacement.pushes:
            near[push.box.slices] = True
        np.testing.assert_array_equal(pushed[~near], labels[~near])
    assert moved > 0


def test_several_metastases_lie_apart_and_are_recorded_each():
    image, host = scan()
    counts = [len(insert_tumor(image, host, (3, 3, 3), "Liver Tumor", seed).record["lesions"]) for seed in range(12)]
    assert max(counts) > 1
    assert min(counts) == 1


def test_renal_masses_grow_into_the_fat_and_never_into_another_structure():
    image, host = scan("Kidney Tumor", level=180)
    others = np.zeros_like(host)
    others[:, 40:] = True
    beyond = []
    for seed in range(10):
        where = Neighbors(others=others & ~host)
        tumor = insert_tumor(image, host, (3, 3, 3), "Kidney Tumor", seed, neighbors=where, diameter_mm=45)
        assert not (tumor.mask & others & ~host).any()
        assert not (tumor.mask & ~tumor.host).any()
        beyond.append((tumor.mask & ~host).sum() / tumor.mask.sum())
        # What it took was fat, and is no fat any more.
        assert image[tumor.mask & ~host].mean() < -60
        assert tumor.image[tumor.mask & ~host].mean() > -60
    assert np.median(beyond) > 0.1


def test_hepatic_tumors_stay_inside_whatever_lies_around():
    image, host = scan()
    for seed in range(6):
        tumor = insert_tumor(image, host, (3, 3, 3), "Liver Tumor", seed, neighbors=Neighbors(others=~host & False))
        assert not (tumor.mask & ~host).any()


def test_an_organ_that_the_scan_cuts_may_hold_a_lesion_that_is_cut():
    image, host = scan()
    cut = []
    for seed in range(30):
        tumor = insert_tumor(image[:, :, 25:], host[:, :, 25:], (3, 3, 3), "Liver Tumor", seed, diameter_mm=30)
        cut.append(tumor.mask[:, :, 0].any())
    assert any(cut)
    assert not all(cut)


def test_a_tumor_that_grows_along_vessels_is_put_beside_one():
    image, host = scan()
    vessels = np.zeros_like(host)
    vessels[:, 24:26, 24:26] = True
    for seed in range(4):
        tumor = insert_tumor(
            image, host, (3, 3, 3), "Hepatic Vessel Tumor", seed, neighbors=Neighbors(vessels), diameter_mm=20
        )
        y, z = (line.mean() for line in tumor.mask.nonzero()[1:])
        assert np.hypot(y - 24.5, z - 24.5) * 3 < 22
        assert tumor.record["beside_vessels"]


@pytest.mark.parametrize(("level", "phase"), [(57, "native"), (108, "venous")])
def test_the_phase_is_estimated_from_the_host(level, phase):
    image, host = scan(level=level)
    record = insert_tumor(image, host, (3, 3, 3), "Liver Tumor", 0).record
    assert (record["phase"], record["phase_estimated"]) == (phase, True)


def test_errors_tell_how_to_mend_them():
    image, host = scan()
    mm = (3, 3, 3)
    few = np.zeros_like(host)
    few[20, 20, 20:22] = True
    for text, call in {
        "Liver is an organ.*Liver Tumor": lambda: insert_tumor(image, host, mm, "Liver", 0),
        "no class is called": lambda: insert_tumor(image, host, mm, "hedgehog", 0),
        "mask is empty.*Liver": lambda: insert_tumor(image, np.zeros_like(host), mm, "Liver Tumor", 0),
        "has 2 voxels.*needs": lambda: insert_tumor(image, few, mm, "Liver Tumor", 0),
        "host mask has shape": lambda: insert_tumor(image, host[1:], mm, "Liver Tumor", 0),
        "vessel mask has shape": lambda: insert_tumor(image, host, mm, "Liver Tumor", 0, neighbors=Neighbors(host[1:])),
        "not booleans": lambda: insert_tumor(image, host.astype(int), mm, "Liver Tumor", 0),
        "3 axes|4 axes|2 axes": lambda: insert_tumor(image[0], host[0], mm, "Liver Tumor", 0),
        "the spacing is": lambda: insert_tumor(image, host, (3, 0, 3), "Liver Tumor", 0),
        "no phase is called": lambda: insert_tumor(image, host, mm, "Liver Tumor", 0, phase="late"),
        "the diameter is": lambda: insert_tumor(image, host, mm, "Liver Tumor", 0, diameter_mm=-1),
    }.items():
        with pytest.raises(InputError, match=text):
            call()


def test_a_ring_leaves_the_mean_of_a_lesion_what_it_was():
    box = Box((0, 0, 0), (40, 40, 40), (1.0, 1.0, 1.0))
    depths = 16.0 - box.radii(np.array([20.0, 20.0, 20.0]))
    variant = replace(variants_of(find("Liver Tumor"))[0], texture=0.0)
    for seed in range(5):
        values = fill(box, depths, variant, Look(70.0, True, frozenset({"ring"})), frozenset({"ring"}), generator(seed))
        assert values[depths > 0].mean() == pytest.approx(70.0, abs=0.1)

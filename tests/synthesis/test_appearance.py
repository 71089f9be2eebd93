"""How tissues look by phase, where gas lies, and what the scanner adds to that."""

from collections import Counter
from functools import cache

import numpy as np
import pytest
from scipy import ndimage

from dsmseg.errors import InputError
from dsmseg.synthesis import cases
from dsmseg.synthesis.anatomy import PHASES, phantom_anatomy
from dsmseg.synthesis.appearance import draw_look, paint
from dsmseg.synthesis.cases import CasePlan
from dsmseg.synthesis.noise import generator
from dsmseg.synthesis.phantom.body import draw_body
from dsmseg.synthesis.phantom.canvas import Frame
from dsmseg.synthesis.phantom.patient import draw_patient, draw_pose
from dsmseg.synthesis.phantom.structures import id_of
from dsmseg.synthesis.scanner import ARTIFACTS, Scanner, blur, draw_scanner, scan

STEP = 5.0
PLAIN = (
    "aorta",
    "inferior_vena_cava",
    "portal_vein_and_splenic_vein",
    "spleen",
    "pancreas",
    "urinary_bladder",
    "visceral_fat",
)


@cache
def body(seed):
    patient = draw_patient(seed, whole=True)
    pose = draw_pose(seed, matrix=np.diag([1.0, 1.0, 1.0 / patient.height]))
    frame = cases._frame(CasePlan(seed=seed, coverage="torso", spacing=(STEP,) * 3), patient, pose)
    return draw_body(patient, frame, pose)


@cache
def painted(seed, phase):
    canvas = body(seed)
    look = draw_look(generator(seed, "look"), phase)
    return paint(canvas.structures, canvas.depth, canvas.height, canvas.frame, look)


def mean(seed, phase, *names):
    return float(painted(seed, phase)[np.isin(body(seed).structures, [id_of(name) for name in names])].mean())


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("seed", range(4))
def test_organs_have_the_hu_of_their_tissue_in_each_phase(seed, phase):
    anatomy = phantom_anatomy()
    for name in PLAIN:
        tissue = anatomy.tissues[id_of(name)]
        low, high = tissue.ranges[PHASES.index(phase)]
        assert low - tissue.texture < mean(seed, phase, name) < high + tissue.texture, name


@pytest.mark.parametrize("seed", range(4))
def test_contrast_fills_arteries_first_and_veins_later(seed):
    native, arterial, venous = (mean(seed, phase, "aorta") for phase in PHASES)
    assert 15 < native < 65
    assert arterial > 175
    assert native < venous
    portal = [mean(seed, phase, "portal_vein_and_splenic_vein") for phase in PHASES]
    assert portal[2] > portal[0] + 40
    assert arterial > mean(seed, "arterial", "inferior_vena_cava")


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("seed", range(4))
def test_lung_is_mostly_air_and_fat_is_lighter_than_water(seed, phase):
    lungs = [f"lung_lower_lobe_{side}" for side in ("right", "left")]
    assert -920 < mean(seed, phase, *lungs) < -600
    assert -125 < mean(seed, phase, "subcutaneous_fat") < -85
    assert 20 < mean(seed, phase, "muscle") < 90
    assert (painted(seed, phase)[body(seed).structures == 0] == -1000).all()


def test_the_lungs_of_many_looks_are_near_minus_800():
    drawn = [draw_look(generator(seed), "native").table[id_of("lung_lower_lobe_left"), 0] for seed in range(60)]
    assert -850 < np.mean(drawn) < -740
    assert np.std(drawn) > 15


def test_bone_has_a_cortex_denser_than_its_inside():
    seed = 0
    canvas, image = body(seed), painted(seed, "native")
    bone = canvas.structures == id_of("hip_left")
    assert image[bone & (canvas.depth < 1.2)].mean() > image[bone & (canvas.depth > 3)].mean() + 100


@pytest.mark.parametrize("seed", range(3))
def test_in_a_kidney_columns_of_cortex_lie_between_the_pyramids_of_the_medulla(seed):
    frame = Frame((30, 30, 30), (3.0, 3.0, 3.0), (0.0, 0.0, 0.0))
    structures, height = np.full(frame.shape, id_of("kidney_left"), np.uint8), np.zeros(frame.shape, np.int8)
    look = draw_look(generator(seed), "arterial")
    inner, outer = (paint(structures, np.full(frame.shape, mm, np.float32), height, frame, look) for mm in (20, 0.5))
    cortex, medulla = look.table[id_of("kidney_left"), [0, 3]]
    middle = (cortex + medulla) / 2
    assert (outer < middle).mean() < 0.1  # at the surface there is cortex
    dark = inner < middle
    assert 0.6 < dark.mean() < 0.85
    shares = dark.reshape(3, 10, 3, 10, 3, 10).mean(axis=(1, 3, 5))  # in cubes of 30 mm
    assert shares.min() > 0.2
    assert shares.max() < 0.99


@pytest.mark.parametrize("organ", ["stomach", "colon"])
def test_gas_rises_above_fluid(organ):
    frame = Frame((40, 40, 40), (3.0, 3.0, 3.0), (0.0, 0.0, 0.0))
    structures = np.full(frame.shape, id_of(organ), np.uint8)
    height = np.broadcast_to(np.linspace(-100, 100, 40).astype(np.int8)[None, :, None], frame.shape).copy()
    depth = np.full(frame.shape, 20, np.float32)
    gases = 0
    for seed in range(12):
        image = paint(structures, depth, height, frame, draw_look(generator(seed), "native"))
        gas, other = image < -800, image > -60
        if gas.sum() > 300:
            gases += 1
            assert height[gas].mean() > height[other].mean() + 30
    assert gases >= 3


@pytest.mark.parametrize("seed", range(4))
def test_gas_lies_before_fluid_in_the_stomach_and_the_colon_of_a_body(seed):
    canvas, image = body(seed), painted(seed, "native")
    for name in ("stomach", "colon"):
        gas, fluid = ((canvas.structures == id_of(name)) & one for one in (image < -800, image > -60))
        if gas.sum() > 20:
            assert canvas.height[gas].mean() > canvas.height[fluid].mean() + 10


def test_the_wall_of_a_hollow_organ_holds_no_gas():
    canvas = body(1)
    wall = np.isin(canvas.structures, [id_of("stomach"), id_of("colon")]) & (canvas.depth < 1.9)
    assert painted(1, "native")[wall].min() > -100


def test_the_same_look_gives_the_same_bytes_and_another_look_others():
    canvas = body(0)
    first, again, other = (draw_look(generator(key), "venous") for key in ("a", "a", "b"))
    np.testing.assert_array_equal(first.table, again.table)
    images = [
        paint(canvas.structures, canvas.depth, canvas.height, canvas.frame, look) for look in (first, again, other)
    ]
    assert images[0].tobytes() == images[1].tobytes()
    assert (images[0] != images[2])[canvas.structures > 0].mean() > 0.9


def test_the_texture_is_fixed_in_space():
    canvas, frame = body(0), body(0).frame
    origin = tuple(float(np.floor(one)) for one in frame.origin)
    look = draw_look(generator("a"), "venous")
    whole = paint(canvas.structures, canvas.depth, canvas.height, Frame(frame.shape, frame.spacing, origin), look)
    shape = (frame.shape[0], frame.shape[1], 9)
    part = Frame(shape, frame.spacing, (origin[0], origin[1], origin[2] + 40 * STEP))
    cut = [np.ascontiguousarray(one[:, :, 40:49]) for one in (canvas.structures, canvas.depth, canvas.height)]
    np.testing.assert_array_equal(paint(*cut, part, look), whole[:, :, 40:49])


def test_a_look_is_of_the_phase_that_was_asked_for_or_of_any():
    assert [draw_look(generator(0), phase).phase for phase in PHASES] == list(PHASES)
    assert {draw_look(generator(seed)).phase for seed in range(80)} == {*PHASES, "mixed"}


def test_all_structures_have_a_look():
    table = draw_look(generator(0), "native").table
    assert np.isfinite(table).all()
    assert (table[1 : len(phantom_anatomy().structures)] != 0).any(axis=1).all()


@pytest.mark.parametrize("grain", [0.5, 1.1])
@pytest.mark.parametrize("spacing", [(0.5, 0.5, 1.0), (0.7, 0.7, 2.5), (0.75, 0.75, 5.0)])
@pytest.mark.parametrize("noise", [4.0, 25.0])
def test_noise_of_fine_pixels_is_as_strong_as_was_asked_for(spacing, grain, noise):
    frame = Frame((96, 96, 14), spacing, (0.0, 0.0, 0.0))
    settings = Scanner(0.6, spacing[2], noise, grain, (), 7)
    image = scan(np.full(frame.shape, 40, np.float32), frame, settings)[20:-20, 20:-20, 3:-3]
    assert image.std() == pytest.approx(noise, rel=0.1)
    assert image.mean() == pytest.approx(40, abs=0.1 * noise)


def test_noise_belongs_to_a_voxel_of_the_whole_scan():
    frame, settings = Frame((30, 30, 20), (1.0, 1.0, 3.0), (0.0, 0.0, 0.0)), Scanner(0.6, 3.0, 15.0, 0.8, (), 7)
    whole = scan(np.zeros(frame.shape, np.float32), frame, settings)
    part = Frame((30, 30, 12), frame.spacing, (0.0, 0.0, 15.0))
    cut = scan(np.zeros(part.shape, np.float32), part, settings, (0, 0, 5))
    np.testing.assert_array_equal(cut[:, :, 3:-3], whole[:, :, 8:14])
    assert (scan(np.zeros(part.shape, np.float32), part, settings)[:, :, 3:-3] != whole[:, :, 8:14]).mean() > 0.9


@pytest.mark.parametrize("sigmas", [(0.05, 0.05, 0.05), (0.6, 1.2, 0.0), (3.0, 0.2, 5.0)])
def test_blur_keeps_a_constant_image_and_the_input(sigmas):
    image = np.full((12, 10, 8), -873.0, np.float32)
    np.testing.assert_allclose(blur(image, sigmas), -873, rtol=1e-5)
    assert (image == -873).all()


def test_blur_is_a_gaussian_along_each_axis():
    image = np.random.default_rng(0).normal(size=(30, 28, 26)).astype(np.float32)
    expected = ndimage.gaussian_filter(image, (1.0, 0.0, 1.4), mode="nearest", radius=(3, 0, 4))
    np.testing.assert_allclose(blur(image, (1.0, 0.0, 1.4)), expected, atol=1e-4)


def test_a_scan_blurs_edges_more_where_resolution_is_worse():
    frame = Frame((40, 20, 9), (1.0, 1.0, 3.0), (0.0, 0.0, 0.0))
    image = np.zeros(frame.shape, np.float32)
    image[20:] = 100
    sharp, soft = (scan(image, frame, Scanner(mm, 3.0, 0.0, 0.8, (), 1)) for mm in (0.4, 1.5))
    assert np.diff(soft, axis=0).max() < 0.6 * np.diff(sharp, axis=0).max()
    assert sharp.max() <= 100.01


@pytest.mark.parametrize("artifact", ARTIFACTS)
def test_each_artifact_changes_the_image_and_stays_finite(artifact):
    canvas, image = body(0), painted(0, "venous")
    scans = [
        scan(image, canvas.frame, Scanner(0.6, STEP, 10.0, 0.8, chosen, 5)) for chosen in ((), (artifact,), (artifact,))
    ]
    change = np.abs(scans[1] - scans[0])
    assert np.isfinite(scans[1]).all()
    assert (change > 10).sum() > 100
    assert (change < 1e-3).sum() > 0.3 * change.size
    assert scans[1].tobytes() == scans[2].tobytes()


def test_metal_is_the_brightest_and_lies_at_bone():
    canvas, image = body(0), painted(0, "venous")
    with_metal = scan(image, canvas.frame, Scanner(0.6, STEP, 0.0, 0.8, ("metal",), 5))
    metal = with_metal >= 2999
    assert 0 < metal.sum() * STEP**3 < 10_000
    assert (ndimage.binary_dilation(image > 350, iterations=2) & metal).any()


def test_metal_needs_bone():
    frame = Frame((20, 20, 8), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    water = np.zeros(frame.shape, np.float32)
    np.testing.assert_array_equal(scan(water, frame, Scanner(0.6, 2.0, 0.0, 0.8, ("metal",), 5)), water)


def test_an_unknown_artifact_is_refused():
    with pytest.raises(InputError, match="'ghost' is no artifact") as caught:
        draw_scanner(generator(0), 2.5, ("metal", "ghost"))
    assert "beam hardening" in str(caught.value.mend)


def test_scanners_differ_and_thick_slices_have_less_noise():
    thin, thick = ([draw_scanner(generator(seed), mm).noise for seed in range(40)] for mm in (1.0, 5.0))
    assert np.std(thin) > 2
    assert np.mean(thick) < 0.75 * np.mean(thin)


def test_coarse_voxels_have_less_noise_and_fine_ones_all_of_it():
    noise = {}
    for mm in (0.5, 0.75, 1.5, 3.0):
        frame = Frame((40, 40, 12), (mm, mm, 3.0), (0.0, 0.0, 0.0))
        noise[mm] = float(np.std(scan(np.zeros(frame.shape, np.float32), frame, Scanner(0.6, 3.0, 20.0, 0.8, (), 3))))
    assert noise[0.5] == pytest.approx(20, rel=0.1)
    assert noise[0.75] == pytest.approx(20, rel=0.1)
    assert noise[1.5] / noise[0.75] == pytest.approx(0.5**0.65, rel=0.1)
    assert noise[3.0] / noise[0.75] == pytest.approx(6.7 / 16, rel=0.1)  # as measured on a chest CT


def test_phases_are_drawn_as_often_as_asked():
    drawn = Counter(draw_look(generator(seed), shares=(0, 1, 3)).phase for seed in range(600))
    assert set(drawn) == {"arterial", "venous", "mixed"}
    assert drawn["venous"] / drawn["arterial"] == pytest.approx(3, rel=0.35)

"""Whole synthetic cases: a patient, scanned, with known truth and, where asked for, tumors."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int16, UInt8
from numpy.random import Generator
from numpy.typing import NDArray

from dsmseg import resources
from dsmseg.errors import InputError
from dsmseg.synthesis.anatomy import PHASES, organ_mask, phantom_anatomy
from dsmseg.synthesis.appearance import Look, draw_look, paint
from dsmseg.synthesis.growing import MOST_TUMORS, GrowingBody
from dsmseg.synthesis.noise import generator
from dsmseg.synthesis.phantom.body import draw_body
from dsmseg.synthesis.phantom.canvas import Canvas, Frame, Pose
from dsmseg.synthesis.phantom.patient import Patient, draw_patient, draw_pose
from dsmseg.synthesis.phantom.structures import id_of
from dsmseg.synthesis.phantom.trunk import Trunk
from dsmseg.synthesis.scanner import as_stored, draw_scanner, scan
from dsmseg.synthesis.tumors.checks import check_wishes
from dsmseg.synthesis.tumors.kinds import named_variant, tumor_class
from dsmseg.taxonomy import by_id

# mm above the sacrum's upper end, in an adult of 172 cm: where a scan begins and ends.
COVERAGES: dict[str, tuple[float, float]] = {
    "thorax": (190, 465),
    "abdomen": (20, 300),
    "pelvis": (-185, 60),
    "thorax-abdomen": (20, 465),
    "abdomen-pelvis": (-185, 300),
    "torso": (-185, 465),
}
_SLAB = 3_000_000  # voxels drawn at a time
# A little above what a case takes: by itself, each voxel, and each voxel where tumors grow.
_SLAB_BYTES, _VOXEL_BYTES, _TUMOR_BYTES = 450_000_000, 9, 12
_TILT = 40.0  # mm along z that a turned body may show beyond the levels of its scan
_UNDER_TABLE = 40.0  # mm below the back


@dataclass(frozen=True, slots=True, kw_only=True)
class CasePlan:
    """What a case shall be.

    seed: decides the patient, the scan and the tumors. coverage: of COVERAGES. spacing: mm. phase: native, arterial or
    venous; None: drawn. tumors: names of tumor classes to grow. variant, diameter_mm: of these tumors, as
    `GrowingBody.grow` takes them; None: drawn. artifacts: of the scanner. whole: a man who lacks
    nothing, so that every organ is there.
    """

    seed: int
    coverage: str = "abdomen"
    spacing: tuple[float, float, float] = (0.8, 0.8, 2.5)
    phase: str | None = None
    tumors: tuple[str, ...] = ()
    variant: str | None = None
    diameter_mm: float | None = None
    artifacts: tuple[str, ...] = ()
    whole: bool = False


@dataclass(slots=True)
class Case:
    """A scan in RAS with its truth.

    image: HU. structures: ids of `phantom_anatomy`. affine: voxel -> mm. tumors: ids of the taxonomy. record: what
    was drawn.
    """

    image: Int16[NDArray[np.int16], "x y z"]
    structures: UInt8[NDArray[np.uint8], "x y z"]
    affine: Float64[NDArray[np.float64], "4 4"]
    tumors: UInt8[NDArray[np.uint8], "x y z"]
    record: dict[str, Any]

    def mask(self, class_id: int) -> Bool[NDArray[np.bool_], "x y z"]:
        """Mark the voxels of a class of the taxonomy. An organ holds its tumors, the liver its vessels too."""
        if by_id(class_id).kind == "tumor":
            marked: NDArray[np.bool_] = self.tumors == class_id
            return marked
        return organ_mask(self.structures, class_id)

    def organs(self) -> UInt8[NDArray[np.uint8], "x y z"]:
        """Give the label map of the organs: ids of the taxonomy, hepatic vessels apart from the liver."""
        return phantom_anatomy().organs[self.structures]


def make_case(plan: CasePlan) -> Case:
    """Make a case. The same plan gives the same voxels on every machine.

    Raises:
        InputError: the coverage, phase, a tumor, its variant or an artifact is unknown, or the spacing is none of a CT.
    """
    _check(plan)
    patient = draw_patient(plan.seed, whole=plan.whole)
    pose = draw_pose(plan.seed, matrix=np.diag([1.0, 1.0, 1.0 / patient.height]))
    frame = _frame(plan, patient, pose)
    _check_memory(frame, grows=bool(plan.tumors))
    random = generator(plan.seed, "scan")
    look = draw_look(random, plan.phase or PHASES[int(random.integers(3))])
    scanner = draw_scanner(random, plan.spacing[2], plan.artifacts)
    affine = np.diag([*plan.spacing, 1.0])
    affine[:3, 3] = frame.origin
    body = GrowingBody(*_draw(patient, plan.coverage, frame, pose, look), plan.spacing)
    for number, name in enumerate(plan.tumors):
        kind = tumor_class(name)
        body.grow(kind, look.phase, plan.seed, "tumor", number, variant=plan.variant, diameter_mm=plan.diameter_mm)
    if "metal" in plan.artifacts:
        scanner = replace(scanner, implant=_place_in_bone(body.structures, frame, random))
    hu = np.empty(frame.shape, np.int16)
    for part, box, margin in _slabs(frame, reach=5):
        scanned = scan(body.image[:, :, box], part, scanner, (0, 0, box.start))
        hu[:, :, box.start + margin[0] : box.stop - margin[1]] = as_stored(
            scanned[:, :, margin[0] : scanned.shape[2] - margin[1]]
        )
    record = {
        "seed": plan.seed,
        "coverage": plan.coverage,
        "phase": look.phase,
        "patient": patient.record,
        "artifacts": list(plan.artifacts),
        "tumors": body.measured_records(),
    }
    return Case(hu, body.structures, affine, body.tumors(), record)


def _check(plan: CasePlan) -> None:
    if plan.coverage not in COVERAGES:
        raise InputError(f"'{plan.coverage}' is no coverage", mend=f"There are: {', '.join(COVERAGES)}.")
    if plan.phase is not None and plan.phase not in PHASES:
        raise InputError(f"'{plan.phase}' is no contrast phase", mend=f"There are: {', '.join(PHASES)}.")
    for kind in map(tumor_class, plan.tumors):
        if plan.variant is not None:
            named_variant(kind, plan.variant)
    check_wishes(plan.phase, plan.diameter_mm)
    if len(plan.tumors) > MOST_TUMORS:
        raise InputError(f"{len(plan.tumors)} tumors are too many", mend=f"Ask for {MOST_TUMORS} or fewer.")
    if not all(0.3 <= step <= 12 for step in plan.spacing):
        raise InputError(f"a spacing of {plan.spacing} mm is not made", mend="Give 0.3 to 12 mm along each axis.")


def _check_memory(frame: Frame, *, grows: bool) -> None:
    voxels = math.prod(frame.shape)
    need = _SLAB_BYTES + (_VOXEL_BYTES + (_TUMOR_BYTES if grows else 0)) * voxels
    there = resources.memory()
    if need > 0.9 * there:
        shape = " x ".join(map(str, frame.shape))
        raise InputError(
            f"a scan of {shape} voxels takes {need / 1e9:.1f} GB, and there are {there / 1e9:.1f}",
            mend="Take a larger spacing or a smaller coverage.",
        )


def _frame(plan: CasePlan, patient: Patient, pose: Pose) -> Frame:
    """Give the grid that holds all of the body between the levels of the coverage, the table too."""
    low, high = (level * patient.height for level in COVERAGES[plan.coverage])
    hull = Trunk(patient).hull(low / patient.height - _TILT, high / patient.height + _TILT)
    places = hull @ np.linalg.inv(pose.matrix).T
    margin = 2.5 * pose.bend + 6
    left, back = places[:, :2].min(axis=0) - margin - (0, _UNDER_TABLE)
    right, front = places[:, :2].max(axis=0) + margin
    spans = (right - left, front - back, high - low)
    shape = [max(8, math.ceil(span / step)) for span, step in zip(spans, plan.spacing, strict=True)]
    return Frame((shape[0], shape[1], shape[2]), plan.spacing, (float(left), float(back), low))


def _slabs(frame: Frame, reach: int = 0) -> list[tuple[Frame, slice, tuple[int, int]]]:
    """Cut a grid along z: each slab's grid with ``reach`` more slices at both ends, and how many of these there are."""
    count = frame.shape[2]
    thick = max(1, _SLAB // (frame.shape[0] * frame.shape[1]))
    slabs = []
    for start in range(0, count, thick):
        end = min(count, start + thick)
        first, last = max(0, start - reach), min(count, end + reach)
        origin = (frame.origin[0], frame.origin[1], frame.origin[2] + first * frame.spacing[2])
        part = Frame((frame.shape[0], frame.shape[1], last - first), frame.spacing, origin)
        slabs.append((part, slice(first, last), (start - first, last - end)))
    return slabs


def _draw(
    patient: Patient, coverage: str, frame: Frame, pose: Pose, look: Look
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    structures, image = np.empty(frame.shape, np.uint8), np.empty(frame.shape, np.float32)
    random = patient.random("table")
    plank = (float(random.uniform(2, 14)), float(random.uniform(0.0004, 0.0016)), float(random.uniform(8, 20)))
    low, high = COVERAGES[coverage]
    trunk = Trunk(patient)
    levels = trunk.z[(trunk.z >= low) & (trunk.z <= high)]
    middle = [(0.0, trunk.spine_at(z) - float(np.interp(z, trunk.z, trunk.tables[2])), z) for z in levels]
    back = float((np.array(middle) @ np.linalg.inv(pose.matrix).T)[:, 1].min())
    for part, box, _ in _slabs(frame):
        canvas = draw_body(patient, part, pose)
        _put_table(canvas, part, back, plank)
        structures[:, :, box] = canvas.structures
        image[:, :, box] = paint(canvas.structures, canvas.depth, canvas.height, part, look)
    return image, structures


def _put_table(canvas: Canvas, frame: Frame, back: float, plank: tuple[float, float, float]) -> None:
    """Put a curved table under the back, and a cushion between the two."""
    gap, curve, thick = plank
    x = frame.origin[0] + frame.spacing[0] * np.arange(frame.shape[0])
    y = frame.origin[1] + frame.spacing[1] * np.arange(frame.shape[1])
    top = back - gap + curve * x * x
    under = top[:, None] - y[None, :]
    air = canvas.structures == 0
    canvas.structures[air & ((under > 0) & (under < thick))[:, :, None]] = id_of("table")


def _place_in_bone(structures: NDArray[np.uint8], frame: Frame, random: Generator) -> tuple[float, float, float] | None:
    """Choose where an implant is: the middle of a hip's socket or of a vertebra that the scan shows."""
    names = [name for name in phantom_anatomy().structures if name.startswith(("head_of_femur", "vertebrae_L"))]
    shown = [id for id in map(id_of, names) if (structures == id).any()]
    if not shown:
        return None
    voxels = np.argwhere(structures == shown[int(random.integers(len(shown)))])
    x, y, z = frame.origin + voxels.mean(axis=0) * frame.spacing
    return float(x), float(y), float(z)

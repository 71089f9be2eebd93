"""Phantoms on demand: each patch is a new patient, drawn where it is needed and nowhere else."""

from dataclasses import replace

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from dsmseg.synthesis.anatomy import phantom_anatomy
from dsmseg.synthesis.appearance import draw_look, paint
from dsmseg.synthesis.bodies import ALL_ORGANS, PatchPlan, Sample, sometimes_thin
from dsmseg.synthesis.noise import seed_of
from dsmseg.synthesis.phantom.body import draw_body
from dsmseg.synthesis.phantom.canvas import Frame
from dsmseg.synthesis.phantom.patient import draw_patient, draw_pose
from dsmseg.synthesis.phantom.trunk import Trunk
from dsmseg.synthesis.scanner import draw_scanner, scan
from dsmseg.taxonomy import find_all

# Somewhere in each organ, in mm in an adult of normal build: where patches are drawn.
_PLACES: dict[str, tuple[tuple[float, float, float], ...]] = {
    "Spleen": ((-98, -26, 222),),
    "Right Kidney": ((58, -8, 140),),
    "Left Kidney": ((-58, -8, 152),),
    "Gall Bladder": ((56, 46, 146),),
    "Esophagus": ((-3, 0, 300), (-3, 0, 400)),
    "Liver": ((70, 10, 215), (80, 10, 160), (0, 48, 225)),
    "Stomach": ((-60, 10, 230), (-20, 66, 160)),
    "Aorta": ((-14, 8, 250), (-4, 30, 110), (0, 45, 390)),
    "Postcava": ((24, 26, 140), (28, 22, 225)),
    "Portal Vein and Splenic Vein": ((14, 38, 160), (-40, 18, 176)),
    "Pancreas": ((20, 42, 150), (-30, 34, 170)),
    "Adrenal Glands": ((38, -6, 195), (-36, -2, 192)),
    "Duodenum": ((50, 32, 130), (0, 45, 100)),
    "Hepatic Vessel": ((60, 20, 205),),
    "Right Lung": ((80, -20, 320), (70, 10, 400)),
    "Left Lung": ((-80, -20, 320), (-70, 10, 400)),
    "Colon": ((95, 20, 60), (0, 70, 95), (-105, 0, 100), (-60, 45, -30)),
    "Intestine": ((-30, 50, 90), (20, 50, 10)),
    "Rectum": ((0, -18, -110),),
    "Bladder": ((0, 28, -105),),
    "Prostate": ((0, 15, -138),),
    "Heads of Femur": ((88, 10, -112), (-88, 10, -112)),
    "Celiac Truck": ((-7, 33, 185),),
}


def draw_phantom(plan: PatchPlan, random: Generator) -> Sample:
    """Draw a patch of a new patient: an organ is chosen evenly, of all or of those of the plan, then a place near it.

    Args:
        plan: size, spacing and deformation of the patch; ``truncation`` as for bodies from label maps.
        random: the stream of chance.
    """
    patient = draw_patient(seed_of(random))
    warp = plan.warp
    size = np.exp(random.uniform(np.log(warp.scale[0]) / 2, np.log(warp.scale[1]) / 2, 3))
    shape = np.diag([1.0, 1.0, 1.0 / patient.height] / size)
    pose = draw_pose(seed_of(random), turn=warp.rotation / 1.6, bend=0.6 * warp.elastic, matrix=shape)
    frame = _frame(plan, pose.matrix, Trunk(patient).put(_place(plan, random)), random)
    canvas = draw_body(patient, frame, pose)
    look = draw_look(random, shares=plan.phases)
    image = paint(canvas.structures, canvas.depth, canvas.height, frame, look)
    settings = draw_scanner(random, float(random.uniform(0.8, 1.8)) * plan.spacing)
    settings = replace(settings, noise=settings.noise * float(random.uniform(0.5, 1.7)))
    image = scan(image, frame, settings) * np.float32(random.uniform(0.95, 1.05)) + np.float32(random.uniform(-12, 12))
    anatomy = phantom_anatomy()
    sample = Sample(
        torch.from_numpy(image),
        torch.from_numpy(anatomy.organs[canvas.structures]),
        torch.ones(plan.size, dtype=torch.bool),
        anatomy.annotated_organs,
        ALL_ORGANS,
        (0, plan.size[2]),
    )
    return sometimes_thin(sample, plan, random)


def _place(plan: PatchPlan, random: Generator) -> NDArray[np.float64]:
    places = list(_PLACES.values())
    wanted = [those for name, those in _PLACES.items() if any(one.id in plan.near for one in find_all(name))]
    if wanted and random.random() < plan.near_share:
        places = wanted
    chosen = places[int(random.integers(len(places)))]
    return np.array(chosen[int(random.integers(len(chosen)))])


def _frame(plan: PatchPlan, matrix: NDArray[np.float64], target: NDArray[np.float64], random: Generator) -> Frame:
    center = np.linalg.inv(matrix) @ (target + random.uniform(-plan.reach, plan.reach, 3))
    origin = center - plan.spacing * (np.array(plan.size) - 1) / 2
    return Frame(plan.size, (plan.spacing,) * 3, (float(origin[0]), float(origin[1]), float(origin[2])))

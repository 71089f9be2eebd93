"""The bowel: duodenum, colon with its haustra, and loops of small bowel that fill what room is left."""

import numpy as np
from numpy.typing import NDArray

from dsmseg.synthesis.phantom.canvas import Canvas, smooth_line
from dsmseg.synthesis.phantom.chest import swayed
from dsmseg.synthesis.phantom.structures import id_of, over
from dsmseg.synthesis.phantom.trunk import Trunk

_FAT = "visceral_fat"


def draw_duodenum(canvas: Canvas, trunk: Trunk) -> None:
    """Draw the duodenum's curve about the head of the pancreas."""
    random = trunk.patient.random("duodenum")
    line = [
        (30, 52, 158),
        (46, 44, 164),
        (58, 30, 148),
        (58, 26, 118),
        (42, 32, 100),
        (14, 46, 98),
        (-14, 44, 106),
        (-26, 44, 124),
    ]
    line[1:] = swayed(random, line[1:], 2.5)
    way = smooth_line(trunk.put(line), 4)
    thick = float(random.uniform(10, 13.5)) * (1 + 0.1 * random.standard_normal(len(way)).clip(-2, 2))
    room = over(_FAT, "muscle", "liver", "kidney_right", "iliopsoas_right")
    canvas.tube(id_of("duodenum"), way, thick, over=room, lumpy=1.5)


def draw_colon(canvas: Canvas, trunk: Trunk) -> None:
    """Draw the colon from the cecum to the rectum."""
    random = trunk.patient.random("colon")
    sag = 95 - 35 * float(random.random())
    line = [
        (88, 38, -6), (94, 32, 30), (100, 14, 75), (92, 18, 116), (66, 50, 118), (34, 68, 98), (0, 74, sag),
        (-40, 70, 112), (-74, 46, 162), (-98, 4, 190), (-106, -10, 150), (-108, -4, 90), (-104, 14, 30),
        (-92, 40, -6), (-62, 48, -34), (-30, 40, -22), (-8, 48, -40), (10, 22, -52), (-4, -16, -62),
    ]  # fmt: skip
    line[:-1] = swayed(random, line[:-1], 4.5)
    way = smooth_line(trunk.put(line), 8)
    full = float(random.uniform(0.75, 1.2))
    knots = np.linspace(0, 1, 14)
    wide = np.interp(knots, (0, 0.12, 0.35, 0.55, 0.75, 1), (27, 24, 20, 18, 14, 13)) * full
    wide = wide * (1 + 0.16 * random.standard_normal(14).clip(-2, 2))
    radii = np.interp(np.linspace(0, 1, len(way)), knots, wide)
    haustra = np.abs((np.arange(len(way)) * 0.37 + random.random()) % 1.0 - 0.5) * 2
    radii = np.maximum(radii * (0.86 + 0.24 * haustra), 7.0)
    room = over(_FAT, "muscle", "liver", "stomach", "iliopsoas_right", "iliopsoas_left")
    canvas.tube(id_of("colon"), way, radii, over=room, wall=3, lumpy=1.5)


def draw_small_bowel(canvas: Canvas, trunk: Trunk) -> None:
    """Draw loops of small bowel, and the fat and vessels of their mesentery between them."""
    random = trunk.patient.random("small bowel")
    room = over(_FAT)
    thick = float(random.uniform(9.5, 13.5))
    loops = round(17 - 7 * trunk.patient.visceral + random.uniform(-2, 2))
    for number in range(loops):
        left_and_high = number % 3 == 0  # jejunum
        middle, level = (-45, 125) if left_and_high else (5, 20)
        start = (middle + random.uniform(-45, 60), random.uniform(25, 72), level + random.uniform(-50, 50))
        line = trunk.put(_wander(np.array(start), int(random.integers(14, 22)), random.standard_normal((40, 3))))
        way = smooth_line(line, 3)
        radii = thick * (1 + 0.18 * np.interp(np.arange(len(way)), range(0, 120, 6), random.standard_normal(20)))
        canvas.tube(id_of("small_bowel"), way, np.maximum(radii, 6), over=room, wall=5, lumpy=1.8)
        if number < 5:
            root = trunk.put((6, 44, 110 - 14 * number))
            for end in way[:: max(1, len(way) // 4)]:
                vessel = smooth_line([root, (root + end) / 2 + (0, -6, 0), end], 3)
                canvas.tube(id_of("mesenteric_vein"), vessel, 1.4, over=room)


def _wander(start: NDArray[np.float64], count: int, chance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give a meandering line through the middle of the abdomen: it turns back at the borders."""
    low, high = np.array([-92, 14, -85]), np.array([88, 78, 160])
    points, direction = [start], np.array([1.0, 0, 0])
    for index in range(count):
        direction = 0.55 * direction + 0.75 * chance[index]
        direction /= max(float(np.sqrt((direction**2).sum())), 1e-6)
        step = points[-1] + 20.0 * direction
        outside = (step < low) | (step > high)
        direction = np.where(outside, -direction, direction)
        points.append(np.clip(step, low, high))
    return np.array(points)

"""Bones: spine, ribs with their cartilage, sternum, shoulders, pelvis, femurs."""

import numpy as np

from dsmseg.synthesis.phantom.canvas import Canvas, smooth_line, turned
from dsmseg.synthesis.phantom.structures import id_of, over, over_all_but
from dsmseg.synthesis.phantom.trunk import Trunk

# The upper end of each vertebra in mm above the sacrum, from L5 up to C5.
_VERTEBRAE = ("L5", "L4", "L3", "L2", "L1", *(f"T{n}" for n in range(12, 0, -1)), "C7", "C6", "C5")
_UPPER_ENDS = (37, 74, 110, 146, 181, 211, 239, 265, 290, 314, 337, 360, 382, 403, 424, 444, 464, 480, 495, 510)
_SOFT = ("skin", "subcutaneous_fat", "visceral_fat", "muscle", "lung_lower_lobe_right", "lung_lower_lobe_left")


def draw_spine(canvas: Canvas, trunk: Trunk) -> None:
    """Draw vertebrae with their arches and processes, discs, the canal with its cord, the sacrum."""
    random = trunk.patient.random("spine")
    build = trunk.patient.width * float(random.uniform(0.94, 1.06))
    soft = over(*_SOFT)
    lower = 0.0
    for name, upper in zip(_VERTEBRAE, _UPPER_ENDS, strict=True):
        pitch, middle = upper - lower, (upper + lower) / 2
        y = trunk.spine_at(middle)
        side, deep = (np.interp(middle, (0, 150, 350, 500), row) * build for row in ((26, 22, 16, 13), (18, 16, 14, 9)))
        lean = trunk.spine_at(upper) - trunk.spine_at(lower)
        flat = [(0, -lean / pitch, 1, middle - y * lean / pitch + pitch / 2)]
        disc, body = id_of("intervertebral_disc"), id_of(f"vertebrae_{name}")
        canvas.blob(disc, (0, y, middle), (side, deep, pitch * 0.9), over=soft, planes=flat)
        flat[0] = (*flat[0][:3], flat[0][3] - 0.2 * pitch)
        below = (0, lean / pitch, -1, -(middle - y * lean / pitch) + pitch / 2)
        grown = over(*_SOFT, "intervertebral_disc")
        canvas.blob(body, (0, y, middle), (side, deep, pitch * 1.3), over=grown, planes=[flat[0], below], lumpy=0.5)
        _draw_arch(canvas, body, y - deep, middle, side, pitch, float(random.uniform(0.9, 1.1)))
        lower = upper
    canal = [
        (0, trunk.spine_at(z) - np.interp(z, (0, 150, 350, 500), (18, 16, 14, 9)) * build - 8, z)
        for z in range(-60, 520, 12)
    ]
    canvas.tube(id_of("visceral_fat"), canal, 9.5, over=over_all_but("skin"), squeeze=(0.8, 1, 1))
    canvas.tube(id_of("spinal_cord"), canal, 6.5, over=over("visceral_fat"), squeeze=(0.8, 1, 1))
    _draw_sacrum(canvas, trunk)


def draw_ribs(canvas: Canvas, trunk: Trunk) -> None:
    """Draw twelve ribs a side along the wall, their cartilage, and the sternum."""
    random = trunk.patient.random("ribs")
    thick = float(random.uniform(0.9, 1.1))
    soft = over(*_SOFT)
    slope = float(random.uniform(0.85, 1.15))
    for number in range(1, 13):
        root = _UPPER_ENDS[17 - number] - 8.0  # rib n meets the upper edge of T n
        drop = np.interp(number, (1, 4, 7, 10, 12), (40, 75, 90, 85, 60)) * slope
        end = np.interp(number, (1, 3, 8, 10, 11, 12), (135, 142, 135, 118, 90, 62))
        for side, word in ((1, "right"), (-1, "left")):
            angles = np.linspace(14, end, 16)
            levels = root + 4 - drop * ((angles - 14) / 130.0) ** 1.15
            line = [(*trunk.wall_at(z, side * a, 0.32), z) for a, z in zip(angles, levels, strict=True)]
            line[0] = (side * 24, trunk.spine_at(root) - 14, root)
            rib = smooth_line(line, 2)
            canvas.tube(id_of(f"rib_{word}_{number}"), rib, 5.2 * thick, over=soft, squeeze=(1.25, 1.25, 0.85))
            if number <= 10:
                meets = np.interp(number, (1, 7, 10), (398, 262, 240))
                angles = np.linspace(end, np.interp(number, (1, 6, 10), (172, 174, 160)), 6)
                heights = np.interp(angles, (angles[0], angles[-1]), (rib[-1][2], meets))
                cartilage = [(*trunk.wall_at(z, side * a, 0.35), z) for a, z in zip(angles, heights, strict=True)]
                canvas.tube(id_of("costal_cartilages"), cartilage, 5.6 * thick, over=soft, squeeze=(1.2, 1.2, 0.85))
    bone = over(*_SOFT, "costal_cartilages")
    line = [(0, trunk.wall_at(z, 180, 0.42)[1], z) for z in (250, 290, 340, 380, 405)]
    canvas.tube(id_of("sternum"), line, (7, 14, 15, 20, 26), over=bone, squeeze=(1.0, 2.4, 1.0), lumpy=0.6)


def draw_shoulders(canvas: Canvas, trunk: Trunk) -> None:
    """Draw clavicles, scapulae and the heads of the humeri."""
    random = trunk.patient.random("shoulders")
    soft = over("skin", "subcutaneous_fat", "muscle", "visceral_fat")
    wide = trunk.patient.width
    for side, word in ((1, "right"), (-1, "left")):
        shift = 4 * random.standard_normal(3)
        blade = np.array([side * 98 * wide, -72, 375]) + shift
        turn = turned("z", side * 32) @ turned("x", 8)
        canvas.blob(id_of(f"scapula_{word}"), blade, (42, 4.5, 72), over=soft, turn=turn, lumpy=1.5)
        joint = np.array([side * 152 * wide, -22, 432]) + shift
        spine_of_blade = [blade + (-side * 25, -6, 30), blade + (side * 20, -14, 52), joint + (side * 4, 2, 16)]
        canvas.tube(id_of(f"scapula_{word}"), spine_of_blade, 6, over=soft)
        canvas.blob(id_of(f"humerus_{word}"), joint, (24, 24, 24), over=over(*_SOFT, f"scapula_{word}"))
        inner = (side * 20, trunk.wall_at(408, 180, 0.5)[1], 410)
        clavicle = smooth_line(
            [inner, (side * 70 * wide, 48, 428), (side * 115 * wide, 8, 440), tuple(joint + (0, 12, 18))], 4
        )
        canvas.tube(id_of(f"clavicula_{word}"), clavicle, 6.5, over=soft)


def draw_pelvis(canvas: Canvas, trunk: Trunk) -> None:
    """Draw the hip bones and the femurs, whose heads are structures of their own."""
    random = trunk.patient.random("pelvis")
    wide = trunk.patient.width * (1.05 if trunk.patient.sex == "female" else 1.0) * float(random.uniform(0.97, 1.03))
    soft = over(*_SOFT)
    back = trunk.spine_at(-60) + 34  # how far the sacrum lies off its usual place
    for side, word in ((1, "right"), (-1, "left")):
        at = np.array([side * wide, 1.0, 1.0])
        hip = id_of(f"hip_{word}")
        socket = np.array([88.0, 3, -112]) * at
        crest = smooth_line([(118, 62, 5), (134, 38, 42), (130, 0, 56), (104, -38, 46), (70, -62, 22), (48, -72, 0)], 9)
        rim = (crest + (0, back * 0.5, 0)) * at
        spokes = np.stack([np.broadcast_to(socket + (side * 4, -6, 24), rim.shape), rim], axis=1)
        canvas.segments(hip, spokes, np.broadcast_to((8.0, 4.6), (len(rim), 2)), over=soft)
        canvas.tube(hip, rim, 7.5, over=soft)
        canvas.tube(hip, [socket + (0, -8, 24), np.array([62.0, -58, -25]) * at], (13, 10), over=soft)
        canvas.blob(hip, socket, (33, 33, 33), over=soft, lumpy=1.0)
        canvas.tube(hip, [socket + (-side * 6, -14, -12), np.array([62.0, -38, -172]) * at], (15, 14), over=soft)
        canvas.tube(
            hip,
            smooth_line(
                [socket + (-side * 12, 18, 0), np.array([48.0, 58, -122]) * at, np.array([9.0, 62, -140]) * at], 4
            ),
            (10, 8, 8, 8, 8, 8, 8, 8, 12),
            over=soft,
        )
        canvas.tube(hip, [np.array([10.0, 58, -150]) * at, np.array([52.0, -30, -172]) * at], (8, 8), over=soft)
        everything = over(*_SOFT, f"hip_{word}")
        canvas.blob(id_of("visceral_fat"), socket + (side * 6, 0, -3), (26.5, 26.5, 26.5), over=everything)
        femur = id_of(f"femur_{word}")
        knob = np.array([138.0, -4, -130]) * at
        shaft = [knob + (-side * 4, 2, -14), np.array([130.0, 6, -190]) * at, np.array([120.0, 10, -300]) * at]
        bone = over(*_SOFT)
        canvas.tube(femur, [socket, knob + (-side * 8, 0, 6)], (17, 16), over=bone)
        canvas.blob(femur, knob, (19, 21, 24), over=bone, lumpy=1.0)
        canvas.tube(femur, shaft, (19, 15, 14), over=bone)
        canvas.blob(id_of(f"head_of_femur_{word}"), socket, (24, 24, 24), over=over(*_SOFT, f"femur_{word}"))


def _draw_arch(canvas: Canvas, body: int, y: float, z: float, side: float, pitch: float, long: float) -> None:
    """Draw lamina, pedicles, transverse and spinous processes. ``y`` is the back of the body."""
    soft = over(*_SOFT)
    low = z - 0.15 * pitch
    for sign in (-1, 1):
        canvas.tube(body, [(sign * side * 0.6, y + 3, z + 3), (sign * 15, y - 10, z + 1)], 5.5, over=soft)
        canvas.tube(body, [(sign * 15, y - 10, z + 1), (sign * 12, y - 17, low - 4), (0, y - 24, low)], 5.5, over=soft)
        tip = (sign * (side + 14) * long, y - 16, z + 3)
        canvas.tube(body, [(sign * 15, y - 10, z + 2), tip], (5.5, 3.5), over=soft)
    slant = np.interp(z, (120, 240, 330, 450), (4, 14, 22, 8))
    canvas.tube(
        body, [(0, y - 23, low), (0, y - 46 * long, low - slant)], (4.5, 4.0), over=soft, squeeze=(1.2, 1, 0.55)
    )


def _draw_sacrum(canvas: Canvas, trunk: Trunk) -> None:
    soft = over(*_SOFT)
    wide = trunk.patient.width * (1.06 if trunk.patient.sex == "female" else 1.0)
    top = trunk.spine_at(0) - 4
    back = trunk.spine_at(-60) + 34
    line = smooth_line(
        [
            (0, top, -12),
            (0, top - 22 + back * 0.3, -40),
            (0, -52 + back, -75),
            (0, -54 + back, -105),
            (0, -42 + back, -132),
        ],
        3,
    )
    thick = np.interp(np.arange(len(line)), (0, 4, 8, 12), (18, 15, 9, 5))
    canvas.tube(id_of("sacrum"), line, thick, over=soft, squeeze=(0.62, 1.0, 1.0))
    for sign in (-1, 1):
        wing = [
            (sign * 22 * wide, top - 8, -18),
            (sign * 46 * wide, top - 34, -22),
            (sign * 32 * wide, top - 46, -55),
            (sign * 16, top - 48, -85),
        ]
        canvas.tube(id_of("sacrum"), wing, (19, 18, 16, 9), over=soft)

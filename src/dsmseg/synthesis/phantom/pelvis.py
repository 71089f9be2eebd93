"""The pelvis: bladder, rectum, prostate or uterus, iliac vessels, psoas."""

import numpy as np

from dsmseg.synthesis.phantom.canvas import Canvas, smooth_line
from dsmseg.synthesis.phantom.chest import swayed
from dsmseg.synthesis.phantom.structures import id_of, over
from dsmseg.synthesis.phantom.trunk import Trunk

_ROOM = ("visceral_fat", "muscle")


def draw_muscles(canvas: Canvas, trunk: Trunk) -> None:
    """Draw psoas and iliacus, the muscles along the spine, and the fat that parts muscles of the buttocks."""
    random = trunk.patient.random("muscles")
    build = float(random.uniform(0.82, 1.15)) * (1.0 if trunk.patient.sex == "male" else 0.88)
    for side, word in ((1, "right"), (-1, "left")):
        psoas = [(30, 4, 165), (40, 2, 110), (52, 8, 55), (64, 22, 0), (80, 40, -60), (98, 30, -115), (112, 6, -140)]
        line = smooth_line(trunk.put(np.array(psoas) * (side, 1, 1)), 4)
        thick = np.interp(np.linspace(0, 1, len(line)), (0, 0.3, 0.6, 1), (8, 17, 20, 11)) * build
        canvas.tube(id_of(f"iliopsoas_{word}"), line, thick, over=over(*_ROOM), lumpy=0.8)
        plate = [(112, 40, 20), (108, 10, 25), (100, 20, -20)]
        canvas.tube(
            id_of(f"iliopsoas_{word}"), trunk.put(np.array(plate) * (side, 1, 1)), 11 * build, over=over(*_ROOM)
        )
        back = [(side * 30, trunk.spine_at(z) - 42, z) for z in range(-20, 420, 40)]
        thick = np.interp(np.arange(len(back)), (0, 2, 5, 10), (16, 22, 19, 13)) * build
        canvas.tube(id_of(f"autochthon_{word}"), back, thick, over=over("muscle"), squeeze=(0.9, 1.0, 1))
        for outer, inner in (((150, -30, 20), (60, -92, -60)), ((130, -60, 0), (40, -80, -100))):
            seam = np.array([outer, inner]) * (side * trunk.patient.width, 1, 1)
            canvas.tube(id_of("subcutaneous_fat"), seam, 2.0, over=over("muscle"), squeeze=(1, 1, 0.2))
        hollow = np.array([side * 42, -46, -140])
        canvas.blob(id_of("subcutaneous_fat"), hollow, (16, 26, 26), over=over("muscle"), lumpy=2)


def draw_pelvic_vessels(canvas: Canvas, trunk: Trunk) -> None:
    """Draw the iliac arteries and veins."""
    random = trunk.patient.random("pelvic vessels")
    wide = float(random.uniform(0.85, 1.2))
    room = over(*_ROOM, "iliopsoas_right", "iliopsoas_left")
    for side, word in ((1, "right"), (-1, "left")):
        artery = [
            (-2, 36, 58),
            (side * 18, 36, 25),
            (side * 38, 26, -20),
            (side * 62, 44, -70),
            (side * 78, 62, -118),
            (side * 84, 60, -200),
        ]
        vein = [
            (12, 28, 44),
            (side * 18 + 6, 22, 15),
            (side * 40, 14, -25),
            (side * 58, 34, -72),
            (side * 70, 56, -118),
            (side * 76, 54, -200),
        ]
        canvas.tube(
            id_of(f"iliac_vena_{word}"), smooth_line(trunk.put(swayed(random, vein, 1)), 4), 6.8 * wide, over=room
        )
        canvas.tube(
            id_of(f"iliac_artery_{word}"), smooth_line(trunk.put(swayed(random, artery, 1)), 4), 5.2 * wide, over=room
        )


def draw_rectum(canvas: Canvas, trunk: Trunk) -> None:
    """Draw the rectum, from the sacrum's hollow to the floor of the pelvis, in its fat."""
    random = trunk.patient.random("rectum")
    line = swayed(random, [(-4, -16, -62), (0, -24, -85), (2, -22, -112), (0, -12, -136), (0, -20, -158)], 1.5)
    way = smooth_line(trunk.put(line), 4)
    thick = np.interp(np.linspace(0, 1, len(way)), (0, 0.45, 0.8, 1), (13, 18, 14, 10)) * float(
        random.uniform(0.8, 1.25)
    )
    canvas.tube(id_of("visceral_fat"), way, thick + 9, over=over("muscle"))
    canvas.tube(id_of("rectum"), way, thick, over=over(*_ROOM), lumpy=1.2)


def draw_bladder(canvas: Canvas, trunk: Trunk) -> None:
    """Draw the bladder, more or less full, and below it the prostate or behind it the uterus."""
    random = trunk.patient.random("bladder")
    full = float(random.uniform(0.8, 1.5))
    room = over(*_ROOM)
    floor = trunk.put((0, 28, -128))
    radii = np.array([36, 29, 27]) * full
    center = floor + (3 * random.standard_normal(), 0, 0.9 * radii[2])
    if trunk.patient.sex == "male":
        size = float(random.uniform(0.85, 1.35))
        at = floor + (0, -10, -10)
        canvas.blob(id_of("prostate"), at, np.array([23, 16, 18]) * size, over=room, lumpy=1.2)
        for side in (1, -1):
            line = [at + (side * 3, -13, 20 * size), at + (side * 26, -16, 27 * size)]
            canvas.tube(id_of("seminal_vesicles"), line, (4.5, 6), over=room, lumpy=1)
    else:
        at = trunk.put((6 * random.standard_normal(), 6, -88))
        tilt = np.array([0, 20, 26]) * float(random.uniform(0.7, 1.2))
        canvas.tube(id_of("uterus"), [at - tilt * 0.9, at, at + tilt], (13, 17, 24), over=room, lumpy=2)
        canvas.tube(
            id_of("uterus"), [floor + (0, -26, -26), at - tilt * 0.8], (11, 13), over=room, squeeze=(0.7, 1.2, 1)
        )
    canvas.blob(id_of("urinary_bladder"), center, radii, over=room, lumpy=2.0)

"""The solid organs of the abdomen, the stomach, and the vessels between them."""

import numpy as np

from dsmseg.synthesis.phantom.canvas import Canvas, smooth_line, turned
from dsmseg.synthesis.phantom.chest import grow_tree, swayed
from dsmseg.synthesis.phantom.structures import id_of, over
from dsmseg.synthesis.phantom.trunk import Trunk

_FAT = "visceral_fat"
_UNDER_DIAPHRAGM = 3.5  # mm
_CLOSE = 1.2  # mm from the wall


def draw_liver(canvas: Canvas, trunk: Trunk) -> None:
    """Draw the liver: a right lobe that fills the space under the right dome, a left lobe before the stomach."""
    random = trunk.patient.random("liver")
    size = float(random.uniform(0.98, 1.14))
    low = 98 + 16 * float(random.standard_normal())
    left_end = float(random.uniform(-92, -30))
    room = over(_FAT, "muscle")
    right = trunk.put((66, 8, 205))
    slope = np.array([-0.60, -0.06, -0.80])
    edge = trunk.put((104, 20, low))
    hollow = np.array([-0.88, -0.44, 0.16])  # the visceral surface, facing the stomach
    face = trunk.put((-8, 12, 190))
    planes = [(*slope, float(slope @ edge)), (*hollow, float(hollow @ face))]
    canvas.blob(
        id_of("liver"),
        right,
        np.array([82, 96, 136]) * size,
        over=room,
        planes=planes,
        wall=_CLOSE,
        below=_UNDER_DIAPHRAGM,
        lumpy=2.2,
    )
    center = trunk.put(((left_end + 42) / 2, 48, 226))
    radii = np.array([(42 - left_end) / 2 + 30, 42, 46]) * size
    under = np.array([0.10, -0.55, -0.83])
    start = trunk.put((0, 40, 176 + 4 * float(random.standard_normal())))
    tip = (-1.0, 0, 0, -trunk.put((left_end - 14, 40, 230))[0])
    planes = [(*under, float(under @ start)), tip]
    canvas.blob(
        id_of("liver"),
        center,
        radii,
        over=room,
        planes=planes,
        turn=turned("y", 10),
        wall=_CLOSE,
        below=_UNDER_DIAPHRAGM,
        lumpy=2.2,
    )
    canvas.blob(id_of("liver"), trunk.put((18, 16, 214)), (20, 15, 26), over=over(_FAT), lumpy=1.5)


def draw_liver_vessels(canvas: Canvas, trunk: Trunk) -> None:
    """Draw the hepatic veins and the portal branches inside the liver."""
    random = trunk.patient.random("liver vessels")
    inside = over("liver")
    hilum, cava = trunk.put((40, 26, 196)), trunk.put((30, 24, 258))
    for root, middle, reach, tips, thick in (
        (hilum, (72, 14, 196), (48, 56, 58), 11, 6.0),
        (cava, (66, 16, 222), (54, 56, 48), 8, 5.5),
        (hilum, (2, 46, 222), (46, 26, 24), 5, 4.5),
    ):
        ends, radii = grow_tree(random, root, trunk.put(middle), np.array(reach, np.float64), tips, thick)
        canvas.segments(id_of("hepatic_vessel"), ends, radii, over=inside, wall=9)


def draw_spleen(canvas: Canvas, trunk: Trunk) -> None:
    """Draw the spleen, a crescent against the left ribs."""
    if not trunk.patient.has("spleen"):
        return
    random = trunk.patient.random("spleen")
    size = float(np.clip(1 + 0.15 * random.standard_normal(), 0.7, 1.45))
    center = trunk.put(swayed(random, [(-97, -22, 220)], 6))[0]
    turn = turned("z", -24 + 9 * random.standard_normal()) @ turned("x", 14 + 8 * random.standard_normal())
    radii = np.array([40, 62, 68]) * size
    canvas.blob(
        id_of("spleen"),
        center,
        radii,
        over=over(_FAT, "muscle"),
        turn=turn,
        wall=_CLOSE,
        below=_UNDER_DIAPHRAGM,
        lumpy=1.8,
    )


def draw_kidneys(canvas: Canvas, trunk: Trunk) -> None:
    """Draw both kidneys, with sinus and pelvis, in their fat, and the adrenal glands above them."""
    random = trunk.patient.random("kidneys")
    fat = 2.5 + trunk.patient.visceral * float(random.uniform(2.0, 14.0))
    both = float(random.uniform(0.91, 1.14))
    for side, word, level in ((1, "right", 140.0), (-1, "left", 152.0)):
        size = both * float(random.uniform(0.95, 1.05))
        high = level + 10 * float(np.clip(random.standard_normal(), -2, 2))
        center = trunk.put(swayed(random, [(side * 68, -8, high)], 5))[0]
        lean, roll, face = (13, 12, 32) + 7 * random.standard_normal(3).clip(-2, 2)
        turn = turned("y", side * lean) @ turned("x", roll) @ turned("z", -side * face)
        room = over(_FAT, "muscle", "liver", "spleen", "iliopsoas_right", "iliopsoas_left")
        behind = center + (0, -10, -4)  # liver and spleen lie before and beside it
        around = np.array([29, 37, 58]) * size + fat
        canvas.blob(id_of(_FAT), behind, around, over=over("liver", "spleen"), turn=turn, lumpy=2.5)
        if trunk.patient.has(f"kidney_{word}"):
            kidney = id_of(f"kidney_{word}")
            canvas.blob(kidney, center, np.array([28, 26, 55]) * size, over=room, turn=turn, wall=_CLOSE, lumpy=1.4)
            hilum = center + turn @ np.array([-side * 20.0, 4, 0])
            sinus = np.array([15, 9, 22]) * size * float(random.uniform(0.7, 1.3))
            canvas.blob(id_of(_FAT), hilum, sinus, over=over(f"kidney_{word}"), turn=turn, lumpy=2.5)
            canvas.blob(id_of("renal_pelvis"), hilum, sinus * (0.5, 0.5, 0.6), over=over(_FAT), turn=turn, lumpy=1.5)
            ureter = [
                hilum,
                trunk.put((side * 36, 4, 95)),
                trunk.put((side * 40, 20, 20)),
                trunk.put((side * 34, 0, -70)),
            ]
            canvas.tube(id_of("renal_pelvis"), smooth_line(ureter, 4), 2.2, over=over(_FAT))
        _draw_adrenal(canvas, trunk, side, word)


def _draw_adrenal(canvas: Canvas, trunk: Trunk, side: int, word: str) -> None:
    """Draw an adrenal gland: a ridge with two thin limbs behind it."""
    random = trunk.patient.random("adrenal", word)
    adrenal = id_of(f"adrenal_gland_{word}")
    top = np.array((40, -2, 200) if side > 0 else (-37, 4, 196), np.float64)
    top = swayed(random, [top], 2.0)[0]
    room = over(_FAT, "muscle", "liver", "spleen", f"kidney_{word}")
    thick = float(random.uniform(2.3, 3.4))
    around = trunk.put([top + (0, 4, 8), top + (side * 6, -12, -16)])
    canvas.tube(id_of(_FAT), around, 5.5, over=over("liver", "spleen", f"kidney_{word}"))
    for limb in ((side * 3, -15, -4), (side * 12, -10, -6)):
        for level in (8, 0, -8, -16):
            ridge = top + (0, 3, level)
            line = trunk.put([ridge, ridge + np.array(limb) * (0.7 + 0.02 * (8 - level))])
            canvas.tube(adrenal, line, (thick, thick * 0.8), over=room, squeeze=(1, 1, 0.6))


def draw_pancreas(canvas: Canvas, trunk: Trunk) -> None:
    """Draw the pancreas from the duodenum's curve to the spleen, with the splenic vein behind it."""
    random = trunk.patient.random("pancreas")
    thick = float(random.uniform(1.0, 1.36))
    room = over(_FAT, "muscle", "liver", "spleen", "kidney_left")
    line = [(36, 34, 124), (36, 36, 142), (20, 44, 152), (2, 50, 158), (-22, 42, 166), (-48, 20, 176), (-74, -4, 190)]
    way = smooth_line(trunk.put(swayed(random, line, 2.5)), 4)
    radii = np.interp(np.arange(len(way)), (0, 5, 10, 16, 24), (12, 15, 9, 10.5, 8)) * thick
    canvas.tube(id_of(_FAT), way, radii + 2.5, over=over("liver", "spleen", "kidney_left"))
    canvas.tube(id_of("pancreas"), way, radii, over=room, squeeze=(1, 1.05, 0.85), lumpy=2.0)
    canvas.blob(id_of("pancreas"), trunk.put((22, 30, 128)), (12, 9, 13), over=room, lumpy=1.5)
    _draw_portal_vein(canvas, trunk, way)


def _draw_portal_vein(canvas: Canvas, trunk: Trunk, pancreas: np.ndarray) -> None:
    random = trunk.patient.random("portal vein")
    wide = float(random.uniform(0.85, 1.2))
    portal = id_of("portal_vein_and_splenic_vein")
    room = over(_FAT, "muscle", "liver", "pancreas", "spleen")
    meets = pancreas[10] + (6, -9, 0)
    splenic = smooth_line([meets, pancreas[14] + (0, -10, 1), pancreas[18] + (0, -9, 2), pancreas[24] + (-6, -6, 6)], 4)
    canvas.tube(portal, splenic, np.linspace(6, 4.4, len(splenic)) * wide, over=room)
    up = smooth_line([meets, (meets + trunk.put((36, 28, 186))) / 2 + (2, 2, 2), trunk.put((40, 27, 198))], 4)
    canvas.tube(portal, up, 7.8 * wide, over=room)
    down = smooth_line(trunk.put(swayed(random, [(12, 44, 130), (12, 46, 100), (18, 48, 60)], 1.5)), 4)
    canvas.tube(id_of("mesenteric_vein"), np.concatenate([[meets], down]), 5.2 * wide, over=room)


def draw_vessels(canvas: Canvas, trunk: Trunk) -> None:
    """Draw the inferior vena cava, the celiac trunk, the upper mesenteric artery and the renal vessels."""
    random = trunk.patient.random("vessels")
    wide = float(random.uniform(0.85, 1.2))
    line = swayed(random, [(14, 26, 44), (21, 27, 90), (24, 26, 140), (27, 22, 190), (28, 22, 225)], 1.5)
    line = trunk.put(np.concatenate([line, [(30, 24, 258), (26, 28, 284)]]))
    room = over(
        _FAT, "muscle", "liver", "iliopsoas_right", "intervertebral_disc", "heart", "heart_blood", "hepatic_vessel"
    )
    way = smooth_line(line, 4)
    flat = float(random.uniform(0.9, 1.5))
    canvas.tube(id_of("inferior_vena_cava"), way, 10.5 * wide, over=room, squeeze=(0.95, flat, 1))
    small = over(_FAT, "muscle", "pancreas")
    celiac = swayed(random, [(-7, 24, 184), (-7, 38, 186), (-7, 53, 183)], 0.8)
    celiac = trunk.put(celiac)
    canvas.tube(id_of("celiac_trunk"), celiac, 4.2 * wide, over=over(_FAT, "muscle", "pancreas", "liver", "stomach"))
    for ends in (((12, 44, 180), (34, 34, 194)), ((-36, 26, 184), (-74, 0, 198))):
        branch = smooth_line([celiac[2], *trunk.put(ends)], 4)
        canvas.tube(id_of("artery"), branch, 2.6 * wide, over=small)
    mesenteric = [(-6, 30, 166), (-4, 40, 152), (0, 46, 120), (6, 48, 70), (14, 46, 30)]
    canvas.tube(id_of("artery"), smooth_line(trunk.put(swayed(random, mesenteric, 1)), 4), 3.6 * wide, over=small)
    for side, level in ((1, 140), (-1, 150)):
        if trunk.patient.has("kidney_right" if side > 0 else "kidney_left"):
            hilum = (side * 50, 4, level)
            start = (24, 26, 142) if side > 0 else (-16, 44, 156)
            vein = (
                [start, (side * 28, 22, level + 4), hilum]
                if side > 0
                else [(20, 26, 152), (-4, 45, 156), (-24, 24, 154), hilum]
            )
            canvas.tube(id_of("vein"), smooth_line(trunk.put(vein), 4), 4.6 * wide, over=small)
            canvas.tube(
                id_of("artery"),
                smooth_line(trunk.put([(-5, 28, 152), (side * 24, 10, level + 2), hilum]), 4),
                2.8,
                over=small,
            )


def draw_stomach(canvas: Canvas, trunk: Trunk) -> None:
    """Draw the stomach from the esophagus to the duodenum, more or less full."""
    random = trunk.patient.random("stomach")
    full = float(random.uniform(0.6, 1.15))
    room = over(_FAT, "muscle", "liver", "spleen", "pancreas", "kidney_left")
    line = [
        (-22, 20, 236),
        (-42, 6, 250),
        (-54, 16, 228),
        (-58, 38, 200),
        (-46, 58, 172),
        (-18, 66, 156),
        (10, 62, 154),
        (28, 52, 158),
    ]
    places = swayed(random, line, 4)
    places[0], places[-1] = line[0], line[-1]  # the neighbors begin there
    way = smooth_line(trunk.put(places), 4)
    radii = np.interp(np.linspace(0, 1, len(way)), (0, 0.16, 0.35, 0.55, 0.75, 1), (9, 33, 38, 32, 22, 9))
    radii = np.maximum(radii * full, 8.0)
    canvas.tube(id_of(_FAT), way, radii + 3, over=over("liver"), wall=2)
    canvas.tube(id_of("stomach"), way, radii, over=room, wall=2, lumpy=2.5)


def draw_gallbladder(canvas: Canvas, trunk: Trunk) -> None:
    """Draw the gallbladder in its bed under the liver."""
    if not trunk.patient.has("gallbladder"):
        return
    random = trunk.patient.random("gallbladder")
    size = float(random.uniform(0.75, 1.25))
    center = trunk.put(swayed(random, [(56, 46, 146)], 4))[0]
    turn = turned("x", -38 + 8 * random.standard_normal()) @ turned("y", 12)
    room = over(_FAT, "liver", "muscle")
    canvas.blob(id_of("gallbladder"), center, np.array([14, 15, 33]) * size, over=room, turn=turn, wall=5, lumpy=1.4)

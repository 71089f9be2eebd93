"""The chest: heart, great vessels, airways, esophagus, and the trees of vessels inside the lungs."""

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from dsmseg.synthesis.phantom.canvas import Canvas, smooth_line, turned
from dsmseg.synthesis.phantom.structures import id_of, over
from dsmseg.synthesis.phantom.trunk import Trunk

_LUNGS = ("lung_lower_lobe_right", "lung_lower_lobe_left")
_ROOM = ("visceral_fat", "muscle", *_LUNGS)


def swayed(random: Generator, points: object, mm: float) -> NDArray[np.float64]:
    """Move points (n, 3) by about ``mm``, all together and each for itself."""
    line = np.array(points, np.float64)
    return line + mm * (0.8 * random.standard_normal(3) + 0.6 * random.standard_normal(line.shape))


def draw_heart(canvas: Canvas, trunk: Trunk) -> None:
    """Draw the heart with its chambers, and the pulmonary arteries."""
    random = trunk.patient.random("heart")
    size = float(random.uniform(0.88, 1.14)) * (0.6 + 0.4 * trunk.patient.width)
    center = trunk.put(swayed(random, [(-16, 38, 308)], 4))[0] + (0, 0, 0.5 * trunk.patient.breath)
    turn = turned("z", 38 + 6 * random.standard_normal()) @ turned("y", -18)
    room = over(*_ROOM)
    fat = float(random.uniform(2, 8))
    canvas.blob(id_of("visceral_fat"), center, np.array([66, 46, 52]) * size + fat, over=room, turn=turn, below=-60)
    canvas.blob(id_of("heart"), center, np.array([66, 46, 52]) * size, over=room, turn=turn, below=-60, lumpy=2)
    chambers = {
        "left ventricle": ((-24, 4, -8), (31, 20, 21)),
        "right ventricle": ((2, 22, -14), (30, 14, 24)),
        "left atrium": ((10, -24, 16), (29, 18, 22)),
        "right atrium": ((40, 2, 2), (20, 21, 28)),
    }
    for place, radii in chambers.values():
        at = center + turn @ (np.array(place) * size)
        canvas.blob(id_of("heart_blood"), at, np.array(radii) * size, over=over("heart"), turn=turn, lumpy=2.0)
    trunk_of_lungs = center + np.array([-2, 26, 38]) * size
    fork = center + np.array([-8, -4, 62]) * size
    for side in (1, -1):
        hilum = trunk.put((side * 46, 0 if side > 0 else -6, 352))
        line = smooth_line([trunk_of_lungs, fork, (fork + hilum) / 2 + (0, -4, 4), hilum], 4)
        canvas.tube(id_of("pulmonary_artery"), line, np.linspace(14, 9, len(line)), over=room)


def draw_great_vessels(canvas: Canvas, trunk: Trunk) -> None:
    """Draw the aorta with its arch and branches, the caval veins and the veins of the neck."""
    random = trunk.patient.random("great vessels")
    wide = float(random.uniform(0.85, 1.25)) * (0.5 + 0.5 * trunk.patient.width)
    room = over(*_ROOM, "heart", "liver", "intervertebral_disc", "pulmonary_artery", "heart_blood")
    arch = swayed(
        random, [(-4, 42, 318), (16, 52, 352), (10, 46, 388), (-6, 28, 402), (-20, 8, 396), (-24, -4, 370)], 2
    )
    down = swayed(random, [(-23, 0, 330), (-20, 2, 290), (-14, 8, 250), (-9, 15, 215), (-6, 23, 180)], 1.5)
    belly = swayed(random, [(-4, 29, 140), (-5, 33, 100), (-2, 36, 58)], 1.5)
    aorta = smooth_line(trunk.put(np.concatenate([arch, down, belly])), 5)
    radii = np.interp(np.arange(len(aorta)), (0, 25, 45, 65), (16, 12.5, 11, 8.5)) * wide
    canvas.tube(id_of("aorta"), aorta, radii, over=room)
    top = aorta[14:19]
    for name, start, end, radius in (
        ("brachiocephalic_trunk", top[1], (16, 28, 430), 6),
        ("common_carotid_artery_left", top[2], (-16, 18, 450), 3.5),
        ("subclavian_artery_left", top[4], (-34, 2, 440), 4.5),
    ):
        canvas.tube(id_of(name), smooth_line([start, trunk.put(end)], 3), radius * wide, over=over(*_ROOM))
    neck = trunk.put((16, 28, 430))
    canvas.tube(id_of("common_carotid_artery_right"), [neck, trunk.put((20, 20, 500))], 3.5, over=over(*_ROOM))
    canvas.tube(id_of("subclavian_artery_right"), [neck, trunk.put((60, 6, 438))], 4.2, over=over(*_ROOM))
    superior = swayed(random, [(30, 26, 330), (27, 34, 365), (24, 36, 404)], 1.5)
    canvas.tube(id_of("superior_vena_cava"), smooth_line(trunk.put(superior), 4), 9 * wide, over=over(*_ROOM, "heart"))
    for side, word in ((1, "right"), (-1, "left")):
        line = [(22, 36, 404), (side * 18 + 4, 36, 420), (side * 48, 20, 430)]
        canvas.tube(id_of(f"brachiocephalic_vein_{word}"), smooth_line(trunk.put(line), 4), 6.5, over=over(*_ROOM))


def draw_airways(canvas: Canvas, trunk: Trunk) -> None:
    """Draw trachea, main bronchi and esophagus."""
    random = trunk.patient.random("airways")
    room = over(*_ROOM, "pulmonary_artery")
    fork = swayed(random, [(4, 8, 372)], 2)[0]
    line = smooth_line(trunk.put([(0, 26, 500), (0, 22, 450), (3, 14, 410), fork]), 4)
    radius = float(random.uniform(7.5, 10.5))
    canvas.tube(id_of("trachea_wall"), line, radius + 1.6, over=room)
    for side, low in ((1, 352), (-1, 344)):
        bronchus = [fork, (side * 20 + 3, 2, 362), (side * 44, -6, low), (side * 52, -14, low - 28)]
        way = smooth_line(trunk.put(bronchus), 4)
        thin = np.linspace(radius * 0.8, 3, len(way))
        canvas.tube(id_of("trachea_wall"), way, thin + 1.4, over=over(*_ROOM, "pulmonary_artery", "heart"))
        canvas.tube(id_of("trachea"), way, thin, over=over("trachea_wall"))
    canvas.tube(id_of("trachea"), line, radius, over=over("trachea_wall"))


def draw_esophagus(canvas: Canvas, trunk: Trunk) -> None:
    """Draw the esophagus down to the stomach."""
    random = trunk.patient.random("esophagus")
    line = swayed(random, [(-2, 12, 500), (-4, 6, 440), (-3, -2, 380), (2, 0, 340), (0, 4, 300), (-6, 12, 265)], 1.5)
    way = smooth_line(trunk.put(np.concatenate([line, [(-14, 18, 245), (-22, 20, 234)]])), 4)
    thick = float(random.uniform(6.5, 9.5)) * (1 + 0.12 * random.standard_normal(len(way)).clip(-2, 2))
    canvas.tube(id_of("esophagus"), way, thick, over=over(*_ROOM, "heart", "liver"), squeeze=(0.85, 1.15, 1), lumpy=0.6)


def draw_lung_vessels(canvas: Canvas, trunk: Trunk) -> None:
    """Draw a tree of vessels in each lung, from the hilum to the pleura."""
    random = trunk.patient.random("lung vessels")
    for side, word, lung in ((1, "right", _LUNGS[0]), (-1, "left", _LUNGS[1])):
        hilum = trunk.put((side * 46, -2, 350))
        inside = over(lung)
        reach = np.array([46.0, 72, 108])
        ends, radii = grow_tree(random, hilum, trunk.put((side * 84, -4, 330)), reach, 64, 6.0)
        canvas.segments(id_of(f"lung_vessel_{word}"), ends, radii, over=inside)


def grow_tree(
    random: Generator,
    root: NDArray[np.float64],
    middle: NDArray[np.float64],
    reach: NDArray[np.float64],
    tips: int,
    thick: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Grow a tree of branches from ``root`` towards random tips in an ellipsoid; each leaves the nearest branch.

    Returns:
        The ends (n, 2, 3) of its pieces, and their radii (n, 2), in mm.
    """
    nodes, orders = np.empty((tips * 40, 3)), np.zeros(tips * 40)
    nodes[0], count = root, 1
    ends, radii = [], []
    for number in range(tips):
        direction = random.standard_normal(3)
        direction /= max(float(np.sqrt((direction**2).sum())), 1e-6)
        tip = middle + direction * reach * float(random.uniform(0.55, 1.0))
        away = nodes[:count] - tip
        nearest = int((np.sqrt((away * away).sum(axis=1)) + 4.0 * orders[:count]).argmin())
        start, order = nodes[nearest].copy(), orders[nearest]
        pieces = min(39, max(2, int(np.sqrt(((tip - start) ** 2).sum()) / 14)))
        sway = 2.2 * random.standard_normal((pieces, 3))
        sway[-1] = 0.0
        line = start + (tip - start) * (np.arange(1, pieces + 1) / pieces)[:, None] + np.cumsum(sway, axis=0)
        shares = 1 - (np.arange(pieces) + 0.5) / pieces
        own = np.maximum(0.55, thick * 0.72**order * (0.25 + 0.75 * shares) * (1.0 if number < 6 else 0.7))
        ends.append(np.stack([np.concatenate([start[None], line[:-1]]), line], axis=1))
        radii.append(np.stack([own, 0.78 * own], axis=1))
        nodes[count : count + pieces], orders[count : count + pieces] = line, order + 1
        count += pieces
    return np.concatenate(ends), np.concatenate(radii)

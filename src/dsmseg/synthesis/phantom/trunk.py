"""The trunk: skin, fat, muscle, the cavity inside, the diaphragm that parts it, and both lungs."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dsmseg.synthesis import kernels
from dsmseg.synthesis.phantom.canvas import Canvas, replacing, turned
from dsmseg.synthesis.phantom.patient import Patient
from dsmseg.synthesis.phantom.structures import id_of

# mm at levels (z) above the sacrum's upper end, in an adult of 172 cm; depths from the spine's middle.
_LEVELS = (-260, -220, -150, -110, -60, 0, 60, 120, 180, 240, 300, 360, 405, 440, 480, 520)
_MUSCLE_SIDE = (150, 156, 160, 160, 150, 138, 128, 128, 136, 143, 150, 160, 176, 165, 66, 60)
_MUSCLE_FRONT = (78, 90, 118, 130, 126, 112, 112, 116, 126, 132, 132, 121, 100, 75, 52, 48)
_MUSCLE_BACK = (54, 50, 40, 42, 54, 68, 70, 68, 70, 76, 83, 88, 84, 72, 55, 52)
_CAVITY_SIDE = (1, 1, 36, 62, 74, 104, 113, 116, 123, 129, 130, 119, 92, 64, 26, 20)
_CAVITY_FRONT = (1, 1, 84, 116, 115, 100, 100, 104, 114, 117, 113, 101, 78, 55, 34, 26)
# For this front of the cavity the places of organs are given.
_PLACED_FRONT = (1, 1, 84, 116, 110, 82, 80, 84, 94, 99, 98, 88, 70, 52, 34, 26)
_CAVITY_BACK = (1, 1, 24, 34, 40, 18, 27, 38, 46, 54, 60, 58, 48, 34, 8, 2)
_FAT_SIDE = (1.1, 1.2, 1.2, 1.1, 1.1, 1.1, 1.0, 0.9, 0.75, 0.6, 0.5, 0.45, 0.4, 0.4, 0.3, 0.3)
_FAT_FRONT = (0.8, 0.8, 0.9, 1.1, 1.3, 1.2, 1.1, 1.0, 0.8, 0.6, 0.4, 0.4, 0.35, 0.3, 0.3, 0.3)
_FAT_BACK = (0.7, 0.8, 0.9, 0.9, 0.9, 0.9, 0.8, 0.7, 0.5, 0.4, 0.4, 0.45, 0.5, 0.5, 0.4, 0.3)
_SPINE = (-20, -30, -48, -52, -34, 2, 8, 4, -4, -14, -22, -22, -14, -6, 4, 8)  # y of the vertebral bodies' middle
_SKIN = 2.2  # mm
_STEP = 2.0  # mm between rows of the tables


class Trunk:
    """The shape of one patient's trunk, as tables along z."""

    def __init__(self, patient: Patient) -> None:
        self.patient = patient
        self.z = np.arange(_LEVELS[0], _LEVELS[-1] + _STEP, _STEP)
        random = patient.random("trunk")
        female = patient.sex == "female"
        hips = np.interp(self.z, (-150, -60, 60, 300, 420), (1.05, 1.06, 0.98, 0.95, 0.92) if female else (1,) * 5)
        sides = patient.width * hips
        fat = patient.fat
        belly = np.interp(self.z, (-80, 0, 110, 230, 300), (0, 0.6, 1, 0.5, 0))
        paunch = belly * (38.0 * max(patient.visceral - 0.35, -0.2) + 5.0 * random.standard_normal())
        wave = 1 + 0.03 * random.standard_normal((3, 5))
        vary = [np.interp(self.z, np.linspace(-260, 520, 5), row) for row in wave]
        self.spine = self._spine()
        usual = [self._along(row) for row in (_CAVITY_SIDE, _PLACED_FRONT, _CAVITY_BACK, _SPINE)]
        muscle = [self._along(row) for row in (_MUSCLE_SIDE, _MUSCLE_FRONT, _MUSCLE_BACK)]
        cavity = [self._along(row) for row in (_CAVITY_SIDE, _CAVITY_FRONT, _CAVITY_BACK)]
        layers = [self._along(row) * fat for row in (_FAT_SIDE, _FAT_FRONT, _FAT_BACK)]
        scale = (sides * vary[0], patient.depth * vary[1], 0.5 * (1 + patient.depth) * vary[2])
        muscle = [row * by for row, by in zip(muscle, scale, strict=True)]
        cavity = [row * by for row, by in zip(cavity, scale, strict=True)]
        for rows in (muscle, cavity):
            rows[0] = rows[0] + 0.35 * np.maximum(paunch, -8)
            rows[1] = rows[1] + paunch
        inner = [row + layer for row, layer in zip(muscle, layers, strict=True)]
        outer = [row + _SKIN for row in inner]
        self.tables = np.stack([*outer, *inner, *muscle, *cavity, self.spine]).astype(np.float32)
        right = 279.0 + patient.breath + 6.0 * random.standard_normal()
        left = right - 10.0 + 6.0 * random.standard_normal()
        self.domes = np.array([right, left], np.float32)
        self._usual_spine = usual[3]
        self._ratios = np.stack([own / base for own, base in zip(cavity, usual[:3], strict=True)])

    def spine_at(self, z: float) -> float:
        """Give y of the middle of the vertebral bodies at a level."""
        return float(np.interp(z, self.z, self.spine))

    def put(self, points: ArrayLike) -> NDArray[np.float64]:
        """Carry places in an adult of normal build, (n, 3) or (3,) in mm, to where they are in this patient."""
        place = np.array(points, np.float64)
        x, y, z = place[..., 0], place[..., 1], place[..., 2]
        side, front, back = (np.interp(z, self.z, row) for row in self._ratios)
        ahead = y - np.interp(z, self.z, self._usual_spine)
        lifted = z + self.patient.breath * np.clip((z - 90.0) / 190.0, 0.0, 1.0) * (z < 300.0)
        ahead = ahead * np.where(ahead > 0, front, back)
        return np.stack([x * side, ahead + np.interp(z, self.z, self.spine), lifted], axis=-1)

    def wall_at(self, z: float, angle: float, outside: float) -> tuple[float, float]:
        """Give x, y of a place in the wall: degrees from the back (0) over the right (90) to the front (180).

        ``outside`` is 0 at the cavity, 1 at the muscle's outside.
        """
        row = min(max(int((z - self.z[0]) / _STEP), 0), len(self.z) - 1)
        side, front, back = (
            float((1 - outside) * self.tables[9 + n, row] + outside * self.tables[6 + n, row]) for n in range(3)
        )
        sine, cosine = np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle))
        f = (
            np.sign(sine) * np.abs(sine) ** 0.85 * side,
            -np.sign(cosine) * np.abs(cosine) ** 0.85 * (back if cosine > 0 else front),
        )
        return float(f[0]), float(f[1]) + self.spine_at(z)

    def draw(self, canvas: Canvas) -> None:
        """Draw skin, fat, muscle, the fat of both cavities, and the lungs; sets the canvas's wall and diaphragm."""
        lungs = ("lung_lower_lobe_right", "lung_lower_lobe_left")
        ids = [id_of(name) for name in ("skin", "subcutaneous_fat", "muscle", "visceral_fat", *lungs)]
        kernels.trunk(
            canvas.place, canvas.structures, canvas.depth, canvas.height, canvas.lumps, canvas.wall, canvas.below,
            self.tables, np.float32(self.z[0]), np.float32(1 / _STEP), self.domes, np.array(ids, np.uint8),
        )  # fmt: skip

    def draw_breasts(self, canvas: Canvas) -> None:
        """Draw the breasts of a woman: fat and gland under skin, lying to the sides."""
        front = replacing([0, id_of("skin"), id_of("subcutaneous_fat")])
        for side, center, radii in self._breasts():
            turn = turned("z", -side * 35)
            for name, share in (("skin", 1.0), ("subcutaneous_fat", 0.96), ("breast", 0.55)):
                lumpy = 1.5 if share < 0.9 else 0
                canvas.blob(id_of(name), center, radii * share, over=front, turn=turn, lumpy=lumpy)

    def hull(self, low: float, high: float) -> NDArray[np.float64]:
        """Give places (n, 3) in mm on boxes around all that lies between two levels."""
        rows = np.flatnonzero((self.z >= low) & (self.z <= high))
        side, front, back = self.tables[:3, rows].astype(np.float64)
        spine, level = self.spine[rows], self.z[rows]
        corners = [(sign * side, y, level) for sign in (-1, 1) for y in (spine + front, spine - back)]
        points = [np.stack(corner, axis=-1) for corner in corners]
        for _, center, radii in self._breasts():
            if low < center[2] + radii.max() and center[2] - radii.max() < high:
                points.append(center + radii.max() * np.array([(1, 1, 0), (-1, 1, 0), (1, -1, 0), (-1, -1, 0)]))
        return np.concatenate(points)

    def _breasts(self) -> list[tuple[int, NDArray[np.float64], NDArray[np.float64]]]:
        """Give side, center and radii of each breast."""
        if self.patient.sex == "male":
            return []
        random = self.patient.random("breasts")
        size = float(random.uniform(0.7, 1.25)) * (0.8 + self.patient.fat / 90)
        places = [(side, self.wall_at(312, 180 - side * 42, 1.0)) for side in (-1, 1)]
        return [(side, np.array([x, y + 8, 312.0]), np.array([58.0, 40, 62]) * size) for side, (x, y) in places]

    def _along(self, row: tuple[float, ...]) -> NDArray[np.float64]:
        line = np.interp(self.z, _LEVELS, row)
        kernel = np.array([1, 2, 3, 4, 5, 4, 3, 2, 1]) / 25  # rounds the corners
        return np.convolve(np.pad(line, 4, mode="edge"), kernel, mode="valid")

    def _spine(self) -> NDArray[np.float64]:
        base = np.asarray(_SPINE, np.float64)
        thoracic = np.interp(_LEVELS, (60, 180, 320, 440), (0, 0.3, 1, 0.2))
        return self._along(tuple(base - thoracic * (self.patient.kyphosis - 22.0)))

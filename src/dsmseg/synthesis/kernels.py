"""The loops over voxels, compiled: noise, shapes, HU, smoothing. What each is for stands where it is called.

Sums and products of IEEE numbers in a fixed order, without fast math, so that every machine gives the same bits.
"""

import numpy as np
from numba import njit

from dsmseg.compilation import compiled

# What the painter does with a structure beyond mean and texture.
HOLLOW, BONE, KIDNEY, LUNG, VESSELS, FAT, MUSCLE = range(1, 8)
COLUMNS = np.float32(0.35)  # of the coarse noise about its zero: sheets some 7 mm thick, a quarter of the inner kidney
BLOCK = 4  # voxels: the side of the blocks that a tube is tried against before their voxels are


@njit(inline="always")
def mix(value):
    """Scramble 64 bits (the finalizer of SplitMix64)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@njit(inline="always")
def normal(bits):
    """Add four 16-bit numbers: mean 0, deviation 1, tails end at 3.5."""
    low = np.uint64(0xFFFF)
    total = (bits & low) + ((bits >> np.uint64(16)) & low) + ((bits >> np.uint64(32)) & low) + (bits >> np.uint64(48))
    return (np.float32(np.int64(total)) - np.float32(131070.0)) * np.float32(2.6429e-5)


@compiled()
def nodes(first, nx, ny, nz, seed):
    out = np.empty((nx, ny, nz), np.float32)
    for i in range(nx):
        row = mix(seed + np.uint64(first[0] + i) * np.uint64(0x9E3779B97F4A7C15))
        for j in range(ny):
            column = mix(row + np.uint64(first[1] + j) * np.uint64(0xD1B54A32D192ED03))
            for k in range(nz):
                out[i, j, k] = normal(mix(column + np.uint64(first[2] + k) * np.uint64(0x8CB92BA72F3D8DD7)))
    return out


@compiled()
def upsample(field, index, weight):
    rows, columns, _ = field.shape
    count = index.shape[0]
    out = np.empty((rows, columns, count), np.float32)
    for i in range(rows):
        for j in range(columns):
            line = field[i, j]
            for k in range(count):
                n = index[k]
                out[i, j, k] = (
                    (line[n] * weight[k, 0] + line[n + 1] * weight[k, 1]) + line[n + 2] * weight[k, 2]
                ) + line[n + 3] * weight[k, 3]
    return out


@njit(inline="always")
def claim(structures, depths, heights, at, structure, depth, height):
    """Give a voxel to a structure that is ``depth`` mm deep there; of two pieces of one structure the deeper stays."""
    if depth > np.float32(0.0) and (structures[at] != structure or depth > depths[at]):
        structures[at] = structure
        depths[at] = depth
        heights[at] = np.int8(max(-100.0, min(100.0, 100.0 * height)))


@compiled()
def blob(
    place,
    structures,
    depths,
    heights,
    lumps,
    walls,
    belows,
    box,
    center,
    axes,
    half_depth,
    planes,
    wall,
    below,
    lumpy,
    structure,
    over,
):
    for i in range(box[0], box[1]):
        for j in range(box[2], box[3]):
            for k in range(box[4], box[5]):
                old = structures[i, j, k]
                if not over[old]:
                    continue
                x = place[0, i, j, k] - center[0]
                y = place[1, i, j, k] - center[1]
                z = place[2, i, j, k] - center[2]
                a = axes[0, 0] * x + axes[0, 1] * y + axes[0, 2] * z
                b = axes[1, 0] * x + axes[1, 1] * y + axes[1, 2] * z
                c = axes[2, 0] * x + axes[2, 1] * y + axes[2, 2] * z
                length = np.sqrt(a * a + b * b + c * c)
                if length > np.float32(1.6):
                    continue
                gx = axes[0, 0] * a + axes[1, 0] * b + axes[2, 0] * c
                gy = axes[0, 1] * a + axes[1, 1] * b + axes[2, 1] * c
                gz = axes[0, 2] * a + axes[1, 2] * b + axes[2, 2] * c
                slope = np.sqrt(gx * gx + gy * gy + gz * gz)
                depth = (np.float32(1.0) - length) * max(length, np.float32(1e-3)) / max(
                    slope, np.float32(1e-5)
                ) + lumpy * lumps[i, j, k]
                depth = min(depth, walls[i, j, k] - wall, belows[i, j, k] - below)
                for p in range(planes.shape[0]):
                    d = (
                        planes[p, 3]
                        - planes[p, 0] * place[0, i, j, k]
                        - planes[p, 1] * place[1, i, j, k]
                        - planes[p, 2] * place[2, i, j, k]
                    )
                    depth = min(depth, d + np.float32(0.5) * lumpy * lumps[i, j, k])
                claim(structures, depths, heights, (i, j, k), structure, depth, y / half_depth)


@compiled()
def blocks(place):
    nx, ny, nz = place.shape[1:]
    out = np.empty((-(-nx // BLOCK), -(-ny // BLOCK), -(-nz // BLOCK), 4), np.float32)
    for a in range(out.shape[0]):
        for b in range(out.shape[1]):
            for c in range(out.shape[2]):
                reach = np.float32(0.0)
                for axis in range(3):
                    low = high = place[axis, a * BLOCK, b * BLOCK, c * BLOCK]
                    for i in range(a * BLOCK, min((a + 1) * BLOCK, nx)):
                        for j in range(b * BLOCK, min((b + 1) * BLOCK, ny)):
                            for k in range(c * BLOCK, min((c + 1) * BLOCK, nz)):
                                low = min(low, place[axis, i, j, k])
                                high = max(high, place[axis, i, j, k])
                    out[a, b, c, axis] = np.float32(0.5) * (low + high)
                    reach += np.float32(0.25) * (high - low) * (high - low)
                out[a, b, c, 3] = np.sqrt(reach)
    return out


@njit(inline="always")
def along(x, y, z, dx, dy, dz, per_length):
    """Give how far along a segment the point nearest to a place is, 0 to 1."""
    return min(max((x * dx + y * dy + z * dz) * per_length, np.float32(0.0)), np.float32(1.0))


@compiled()
def segments(
    place,
    structures,
    depths,
    heights,
    lumps,
    walls,
    spheres,
    boxes,
    ends,
    radii,
    squeeze,
    wall,
    lumpy,
    structure,
    over,
):
    nx, ny, nz = structures.shape
    widest = max(squeeze[0], squeeze[1], squeeze[2])
    for n in range(boxes.shape[0]):
        sx, sy, sz = ends[n, 0, 0], ends[n, 0, 1], ends[n, 0, 2]
        dx, dy, dz = (
            (ends[n, 1, 0] - sx) * squeeze[0],
            (ends[n, 1, 1] - sy) * squeeze[1],
            (ends[n, 1, 2] - sz) * squeeze[2],
        )
        per_length = np.float32(1.0) / max(dx * dx + dy * dy + dz * dz, np.float32(1e-6))
        reach = max(radii[n, 0], radii[n, 1]) + np.float32(3.0) * lumpy
        for a in range(boxes[n, 0] // BLOCK, -(-boxes[n, 1] // BLOCK)):
            for b in range(boxes[n, 2] // BLOCK, -(-boxes[n, 3] // BLOCK)):
                for c in range(boxes[n, 4] // BLOCK, -(-boxes[n, 5] // BLOCK)):
                    x = (spheres[a, b, c, 0] - sx) * squeeze[0]
                    y = (spheres[a, b, c, 1] - sy) * squeeze[1]
                    z = (spheres[a, b, c, 2] - sz) * squeeze[2]
                    t = along(x, y, z, dx, dy, dz, per_length)
                    x, y, z = x - t * dx, y - t * dy, z - t * dz
                    far = reach + widest * spheres[a, b, c, 3]
                    if x * x + y * y + z * z > far * far:
                        continue
                    for i in range(a * BLOCK, min((a + 1) * BLOCK, nx)):
                        for j in range(b * BLOCK, min((b + 1) * BLOCK, ny)):
                            for k in range(c * BLOCK, min((c + 1) * BLOCK, nz)):
                                old = structures[i, j, k]
                                if not (over[old] or old == structure):
                                    continue
                                x = (place[0, i, j, k] - sx) * squeeze[0]
                                y = (place[1, i, j, k] - sy) * squeeze[1]
                                z = (place[2, i, j, k] - sz) * squeeze[2]
                                t = along(x, y, z, dx, dy, dz, per_length)
                                x, y, z = x - t * dx, y - t * dy, z - t * dz
                                square = x * x + y * y + z * z
                                if square > reach * reach:
                                    continue
                                radius = radii[n, 0] + t * (radii[n, 1] - radii[n, 0])
                                depth = radius - np.sqrt(square) + lumpy * lumps[i, j, k]
                                depth = min(depth, walls[i, j, k] - wall)
                                height = y / max(radius, np.float32(0.1))
                                claim(structures, depths, heights, (i, j, k), structure, depth, height)


@compiled()
def inside(across, ahead, side, depth):
    """Give about how many mm a place lies inside a superellipse of exponent 2.5."""
    u, v = across / side, ahead / depth
    su, sv = np.sqrt(u), np.sqrt(v)
    level = u * u * su + v * v * sv
    gx, gy = np.float32(2.5) * u * su / side, np.float32(2.5) * v * sv / depth
    slope = np.sqrt(gx * gx + gy * gy)
    return (np.float32(1.0) - level) / max(slope, np.float32(2.5) / (side + depth))


@njit(inline="always")
def between(tables, n, row, t):
    return tables[n, row] + t * (tables[n, row + 1] - tables[n, row])


@compiled()
def trunk(
    place,
    structures,
    depths,
    heights,
    lumps,
    walls,
    belows,
    tables,
    first,
    per_mm,
    domes,
    ids,
):
    one, last = np.float32(1.0), tables.shape[1] - 2
    for i in range(structures.shape[0]):
        for j in range(structures.shape[1]):
            for k in range(structures.shape[2]):
                x, y, z = place[0, i, j, k], place[1, i, j, k], place[2, i, j, k]
                at = max((z - first) * per_mm, np.float32(0.0))
                row = min(int(at), last)
                t = min(at - np.float32(row), one)
                y_of_spine = between(tables, 12, row, t)
                across, ahead = abs(x), y - y_of_spine
                behind = 1 if ahead < 0 else 0
                ahead = abs(ahead)
                outer = inside(across, ahead, between(tables, 0, row, t), between(tables, 1 + behind, row, t))
                if outer <= 0:
                    walls[i, j, k] = outer - 60
                    belows[i, j, k] = -1000
                    continue
                inner = inside(across, ahead, between(tables, 3, row, t), between(tables, 4 + behind, row, t))
                muscle = inside(across, ahead, between(tables, 6, row, t), between(tables, 7 + behind, row, t))
                wall = inside(across, ahead, between(tables, 9, row, t), between(tables, 10 + behind, row, t))
                uneven = lumps[i, j, k]
                right = 0 if x > 0 else 1
                px = (across - np.float32(62.0)) / np.float32(74.0)
                py = (y - np.float32(28.0)) / np.float32(88.0)
                fall = px * px + py * py
                dome = (
                    domes[right]
                    - np.float32(24.0) * fall
                    - np.float32(34.0) * fall * fall
                    - np.float32(0.22) * (np.float32(28.0) - y)
                )
                below = max(dome - z, np.float32(-500.0)) + uneven
                walls[i, j, k], belows[i, j, k] = wall, below
                if inner <= 0:
                    structures[i, j, k], depths[i, j, k] = ids[0], outer
                elif muscle <= 0:
                    structures[i, j, k], depths[i, j, k] = ids[1], inner
                elif wall <= np.float32(0.6) * uneven:
                    structures[i, j, k], depths[i, j, k] = ids[2], muscle
                elif below > 0:
                    structures[i, j, k], depths[i, j, k] = (ids[2], below) if below < 3 and wall > 2 else (ids[3], wall)
                else:
                    v = (y - y_of_spine - np.float32(38.0)) / np.float32(62.0)
                    middle = np.float32(13.0) + np.float32(16.0) * max(one - v * v, np.float32(0.0)) + uneven
                    lung = min(across - middle, wall - np.float32(1.5), -below)
                    if lung > 0:
                        v = max(min(v - np.float32(0.1), one), -one)
                        heights[i, j, k] = np.int8(np.float32(100.0) * v)
                        structures[i, j, k], depths[i, j, k] = ids[4 + right], lung
                    else:
                        structures[i, j, k], depths[i, j, k] = ids[3], wall


@compiled()
def paint(structures, depth, height, fine, coarse, ridge, filling, table):
    out = np.empty(structures.shape, np.float32)
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            for k in range(out.shape[2]):
                row = table[structures[i, j, k]]
                f, c, d = fine[i, j, k], coarse[i, j, k], depth[i, j, k]
                grain = row[1] * (np.float32(0.75) * f + np.float32(0.65) * c)
                value = row[0] + grain
                kind = int(row[13])
                if kind == HOLLOW:  # a wall around contents
                    if d >= row[2]:
                        u = np.float32(0.012) * height[i, j, k] + np.float32(0.75) * filling[i, j, k]
                        rank = np.float32(0.52) - np.float32(0.34) * u  # about 0 to 1, from the top down
                        if rank < row[5] and row[5] > np.float32(0.03):
                            value = row[9] + np.float32(12.0) * f
                        elif rank < row[6]:
                            value = row[10] + np.float32(6.0) * f
                        elif rank < row[7]:
                            value = row[11] + np.float32(55.0) * f + np.float32(30.0) * c
                            if f > np.float32(1.2):
                                value -= np.float32(300.0)  # gas in stool
                        elif rank < row[8]:
                            value = row[12] + np.float32(25.0) * f
                        else:
                            value = row[0] + np.float32(0.6) * grain
                elif kind == BONE:  # cortex around spongy bone
                    if d < row[2]:
                        value = row[3] + np.float32(60.0) * f
                elif kind == KIDNEY:  # cortex, and columns of it between the pyramids of the medulla
                    deep = d + np.float32(3.0) * ridge[i, j, k]
                    if deep > row[2] and abs(c) > COLUMNS:
                        value += row[3] - row[0]
                elif kind == LUNG:  # denser where it lies lower
                    value = row[0] + grain - row[4] * np.float32(0.01) * height[i, j, k]
                    if abs(ridge[i, j, k] + np.float32(0.3) * f) < row[2] and d > np.float32(4.0):
                        value = row[3]
                elif kind == VESSELS:  # inside
                    if abs(ridge[i, j, k]) < row[2]:
                        value += row[3]
                elif kind == FAT:  # strands
                    strand = f + np.float32(0.8) * c
                    if strand > row[2]:
                        value += row[3] * min(strand - row[2], np.float32(1.0))
                elif kind == MUSCLE:  # fat in it
                    streak = np.float32(0.7) * f - np.float32(0.9) * c
                    if streak > row[2]:
                        value -= row[3] * min(streak - row[2], np.float32(1.0))
                out[i, j, k] = value
    return out


@compiled()
def convolve(image, weights, axis):
    nx, ny, nz = image.shape
    out = np.zeros_like(image)
    reach = weights.shape[0] // 2
    if axis == 2:
        for i in range(nx):
            for j in range(ny):
                for k in range(nz):
                    total = np.float32(0.0)
                    for n in range(-reach, reach + 1):
                        total += weights[n + reach] * image[i, j, min(max(k + n, 0), nz - 1)]
                    out[i, j, k] = total
    else:
        for i in range(nx):
            for j in range(ny):
                for n in range(-reach, reach + 1):
                    weight = weights[n + reach]
                    a = min(max(i + n, 0), nx - 1) if axis == 0 else i
                    b = min(max(j + n, 0), ny - 1) if axis == 1 else j
                    for k in range(nz):
                        out[i, j, k] += weight * image[a, b, k]
    return out

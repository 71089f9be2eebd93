"""The loop over voxels of augmentation, compiled."""

import numpy as np

from dsmseg.compilation import compiled


@compiled()
def warp(hu, codes, matrix, shift, size):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201  # pragma: no cover
    """Sample ``hu`` linearly and ``codes`` by the nearest voxel at matrix @ offset + shift about their middle.

    ``shift`` is (3, x, y, z), or (3, 1, 1, 1) where it is the same everywhere. Beyond the border the outermost voxel.
    """
    nx, ny, nz = size[0], size[1], size[2]
    image = np.empty((nx, ny, nz), np.float32)
    labels = np.empty((nx, ny, nz), codes.dtype)
    one = np.float32(1.0)
    mx, my, mz = np.float32(hu.shape[0] - 1), np.float32(hu.shape[1] - 1), np.float32(hu.shape[2] - 1)
    moves = shift.shape[1] == nx and nx > 1
    for i in range(nx):
        u = np.float32(i) - np.float32(0.5) * np.float32(nx - 1)
        for j in range(ny):
            v = np.float32(j) - np.float32(0.5) * np.float32(ny - 1)
            ax = matrix[0, 0] * u + matrix[0, 1] * v + np.float32(0.5) * mx
            ay = matrix[1, 0] * u + matrix[1, 1] * v + np.float32(0.5) * my
            az = matrix[2, 0] * u + matrix[2, 1] * v + np.float32(0.5) * mz
            for k in range(nz):
                w = np.float32(k) - np.float32(0.5) * np.float32(nz - 1)
                x, y, z = ax + matrix[0, 2] * w, ay + matrix[1, 2] * w, az + matrix[2, 2] * w
                if moves:
                    x, y, z = x + shift[0, i, j, k], y + shift[1, i, j, k], z + shift[2, i, j, k]
                x = min(max(x, np.float32(0.0)), mx)
                y = min(max(y, np.float32(0.0)), my)
                z = min(max(z, np.float32(0.0)), mz)
                labels[i, j, k] = codes[int(x + np.float32(0.5)), int(y + np.float32(0.5)), int(z + np.float32(0.5))]
                a, b, c = int(x), int(y), int(z)
                d, e, f = min(a + 1, hu.shape[0] - 1), min(b + 1, hu.shape[1] - 1), min(c + 1, hu.shape[2] - 1)
                x, y, z = x - np.float32(a), y - np.float32(b), z - np.float32(c)
                near = (np.float32(hu[a, b, c]) * (one - z) + np.float32(hu[a, b, f]) * z) * (one - y)
                near += (np.float32(hu[a, e, c]) * (one - z) + np.float32(hu[a, e, f]) * z) * y
                far = (np.float32(hu[d, b, c]) * (one - z) + np.float32(hu[d, b, f]) * z) * (one - y)
                far += (np.float32(hu[d, e, c]) * (one - z) + np.float32(hu[d, e, f]) * z) * y
                image[i, j, k] = near * (one - x) + far * x
    return image, labels

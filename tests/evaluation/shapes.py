"""Masks that tests share."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def blob(seed: int, shape: tuple[int, int, int] = (24, 20, 18), share: float = 0.15) -> NDArray[np.bool_]:
    """Smooth random parts that also touch the border."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2.5)
    return field > np.quantile(field, 1 - share)


def ball(shape: tuple[int, int, int], middle: tuple[float, ...], radius_mm: float, spacing=(1.0, 1.0, 1.0)) -> NDArray:
    places = (np.indices(shape).T - np.array(middle)) * spacing
    return (np.linalg.norm(places, axis=-1) <= radius_mm).T


def cube(shape: tuple[int, int, int], *bounds: tuple[int, int]) -> NDArray[np.bool_]:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(*one) for one in bounds)] = True
    return mask

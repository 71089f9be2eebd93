"""From a scan to its segmentation: windows, blending, restoring to the scan's own grid, statistics, case folders."""

from dsmseg.inference.blending import Progress
from dsmseg.inference.cases import Case, find_cases
from dsmseg.inference.lesions import Lesion
from dsmseg.inference.prediction import CaseResult, predict
from dsmseg.inference.runtime import processor
from dsmseg.inference.segmentation import Segmentation
from dsmseg.inference.segmenter import Segmenter
from dsmseg.inference.soft_maps import UNSEEN, SoftMaps, UnseenRule, soft_maps

__all__ = [
    "UNSEEN",
    "Case",
    "CaseResult",
    "Lesion",
    "Progress",
    "Segmentation",
    "Segmenter",
    "SoftMaps",
    "UnseenRule",
    "find_cases",
    "predict",
    "processor",
    "soft_maps",
]

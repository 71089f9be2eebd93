"""A CT in and out: files to a `Volume` in RAS (mm, HU), another spacing, and results back on the scan's own grid."""

from dsmseg.volume.checks import check_intensities
from dsmseg.volume.grid import Grid, Volume
from dsmseg.volume.nifti import write_nifti
from dsmseg.volume.reading import read_labels, read_scan
from dsmseg.volume.resampling import resample, resample_onto, resampled_grid
from dsmseg.volume.slicer import Segment, write_seg_nrrd

__all__ = [
    "Grid",
    "Segment",
    "Volume",
    "check_intensities",
    "read_labels",
    "read_scan",
    "resample",
    "resample_onto",
    "resampled_grid",
    "write_nifti",
    "write_seg_nrrd",
]

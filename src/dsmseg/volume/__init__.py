"""A CT in and out: files to a `Volume` in RAS (mm, HU), another spacing, and results back on the scan's own grid."""

from dsmseg.volume.body import body_mask, bounding_box
from dsmseg.volume.checks import IntensityError, check_intensities
from dsmseg.volume.dicom import is_ignored_name
from dsmseg.volume.grid import Grid, Volume
from dsmseg.volume.headers import read_grid
from dsmseg.volume.label_names import read_label_names
from dsmseg.volume.nifti import write_nifti
from dsmseg.volume.reading import VOLUME_SUFFIXES, read_labels, read_map, read_scan, source_files
from dsmseg.volume.resampling import resample, resample_onto, resampled_grid
from dsmseg.volume.slicer import Segment, write_seg_nrrd

__all__ = [
    "VOLUME_SUFFIXES",
    "Grid",
    "IntensityError",
    "Segment",
    "Volume",
    "body_mask",
    "bounding_box",
    "check_intensities",
    "is_ignored_name",
    "read_grid",
    "read_label_names",
    "read_labels",
    "read_map",
    "read_scan",
    "resample",
    "resample_onto",
    "resampled_grid",
    "source_files",
    "write_nifti",
    "write_seg_nrrd",
]

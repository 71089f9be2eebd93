"""Whether a data set is as it should be: headers first, then voxels, then scans that are there twice."""

from dsmseg.datasets.verification.findings import Check, Finding

__all__ = ["Check", "Finding"]

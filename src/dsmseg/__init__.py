"""dsmseg: organs and tumors in CT, by the DSM network (arXiv 2506.12747)."""

__version__ = "0.1.0"

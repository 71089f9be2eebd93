"""Pseudo-labels: what weights find in scans without labels, made into a data set to train the next weights with.

`label` in `labelling.py` is the whole way; `agreement`, `plausibility` and `table` are its steps.
"""

"""Public data sets in one label space: described, verified, prepared into a store, and read back as patches."""

from dsmseg.datasets.choosing import choose_datasets
from dsmseg.datasets.description import Description, by_name, packaged, read_description
from dsmseg.datasets.prepare import Preparation, Prepared, prepare
from dsmseg.datasets.splits import Protocol, counts, published_cases
from dsmseg.datasets.store import Settings, Store, StoredCase
from dsmseg.datasets.verification import Check, Finding
from dsmseg.datasets.verify import Verified, verify

__all__ = [
    "Check",
    "Description",
    "Finding",
    "Preparation",
    "Prepared",
    "Protocol",
    "Settings",
    "Store",
    "StoredCase",
    "Verified",
    "by_name",
    "choose_datasets",
    "counts",
    "packaged",
    "prepare",
    "published_cases",
    "read_description",
    "verify",
]

"""Synthetic tumors of the 20 kinds of the taxonomy, grown inside a host organ of any CT."""

from dsmseg.synthesis.tumors.insertion import InsertedTumor, insert_tumor, measure
from dsmseg.synthesis.tumors.push import Displacement

__all__ = ["Displacement", "InsertedTumor", "insert_tumor", "measure"]

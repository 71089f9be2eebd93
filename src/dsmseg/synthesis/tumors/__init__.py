"""Synthetic tumors of the 20 kinds of the taxonomy, grown inside a host organ of any CT."""

from dsmseg.synthesis.tumors.insertion import InsertedTumor, Neighbors, insert_tumor
from dsmseg.synthesis.tumors.measuring import measure
from dsmseg.synthesis.tumors.push import Displacement

__all__ = ["Displacement", "InsertedTumor", "Neighbors", "insert_tumor", "measure"]

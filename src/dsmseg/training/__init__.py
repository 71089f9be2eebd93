"""Training runs from a recipe: reproducible, resumable."""

from dsmseg.training.loop import train
from dsmseg.training.reading import load_recipe

__all__ = ["load_recipe", "train"]

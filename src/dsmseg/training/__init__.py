"""Training runs from a recipe: reproducible, resumable."""

from dsmseg.training.interruption import StoppedError
from dsmseg.training.launching import is_first_process
from dsmseg.training.loop import train
from dsmseg.training.reading import load_recipe
from dsmseg.training.rehearsal import rehearse

__all__ = ["StoppedError", "is_first_process", "load_recipe", "rehearse", "train"]

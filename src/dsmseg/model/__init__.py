"""The paper's network: torch only, no files, no CT, no command line."""

from dsmseg.model.config import PRESETS, TABLE_5, DSMConfig
from dsmseg.model.dsm import DSM, DSMOutput, build

__all__ = ["DSM", "PRESETS", "TABLE_5", "DSMConfig", "DSMOutput", "build"]

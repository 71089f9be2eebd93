"""The paper's network: torch only, no files, no CT, no command line."""

from dsmseg.model.config import ABLATIONS, PRESETS, TABLE_5, Ablation, DSMConfig, Prompt, ablated
from dsmseg.model.dsm import DSM, DSMOutput, build

__all__ = ["ABLATIONS", "DSM", "PRESETS", "TABLE_5", "Ablation", "DSMConfig", "DSMOutput", "Prompt", "ablated", "build"]

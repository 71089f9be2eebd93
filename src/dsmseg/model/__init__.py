"""The paper's network: torch only, no files, no CT, no command line."""

from dsmseg.model.config import ABLATIONS, LITERAL, PRESETS, TABLE_5, Ablation, DSMConfig, Prompt, Readings, ablated
from dsmseg.model.dsm import DSM, DSMOutput, answered_in_hosts, build

__all__ = [
    "ABLATIONS",
    "DSM",
    "LITERAL",
    "PRESETS",
    "TABLE_5",
    "Ablation",
    "DSMConfig",
    "DSMOutput",
    "Prompt",
    "Readings",
    "ablated",
    "answered_in_hosts",
    "build",
]

"""Pictures of what was found, and the demonstration on a real scan."""

from dsmseg.report.demo import Agreement, DemoResult, run_demo
from dsmseg.report.overview import overview

__all__ = ["Agreement", "DemoResult", "overview", "run_demo"]

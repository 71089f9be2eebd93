"""How good a segmentation is: metrics, what an empty mask means for each, and folders measured case by case."""

from dsmseg.evaluation.bootstrap import PairedDifference, mean_interval, paired_bootstrap
from dsmseg.evaluation.calibration import CalibrationCounts, count_calibration
from dsmseg.evaluation.evaluate import Evaluation, Plan, Request, evaluate, plan
from dsmseg.evaluation.labels import LabelMeaning, parse_meaning
from dsmseg.evaluation.lesions import Cut, Froc, LesionCounts, LesionMatches, lesion_mask, match_lesions
from dsmseg.evaluation.measuring import CaseTask, Figures, Settings, measure_case
from dsmseg.evaluation.output import PICTURES, compare, prepare_output, write_tables
from dsmseg.evaluation.overlap import OverlapCounts, count_overlap
from dsmseg.evaluation.pictures import draw_pictures
from dsmseg.evaluation.policy import METRICS, Metric, Outcome, Presence, metric
from dsmseg.evaluation.ranking import ScoreCounts, count_scores
from dsmseg.evaluation.regions import body_region, dilated
from dsmseg.evaluation.summaries import Summary
from dsmseg.evaluation.surfaces import SurfaceDistances, surface_distances

__all__ = [
    "METRICS",
    "PICTURES",
    "CalibrationCounts",
    "CaseTask",
    "Cut",
    "Evaluation",
    "Figures",
    "Froc",
    "LabelMeaning",
    "LesionCounts",
    "LesionMatches",
    "Metric",
    "Outcome",
    "OverlapCounts",
    "PairedDifference",
    "Plan",
    "Presence",
    "Request",
    "ScoreCounts",
    "Settings",
    "Summary",
    "SurfaceDistances",
    "body_region",
    "compare",
    "count_calibration",
    "count_overlap",
    "count_scores",
    "dilated",
    "draw_pictures",
    "evaluate",
    "lesion_mask",
    "match_lesions",
    "mean_interval",
    "measure_case",
    "metric",
    "paired_bootstrap",
    "parse_meaning",
    "plan",
    "prepare_output",
    "surface_distances",
    "write_tables",
]

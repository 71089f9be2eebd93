"""Tables 2 to 5 of the paper as runs: train what is missing, score every case, write the table beside the paper's."""

from dsmseg.evaluation.bench.data import Data, Scale, mini_data
from dsmseg.evaluation.bench.layout import join
from dsmseg.evaluation.bench.page import as_markdown
from dsmseg.evaluation.bench.run import Plan, run_table
from dsmseg.evaluation.bench.tables import TABLES, Table, load_table

__all__ = ["TABLES", "Data", "Plan", "Scale", "Table", "as_markdown", "join", "load_table", "mini_data", "run_table"]

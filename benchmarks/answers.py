"""How DSM should answer for a tumor that it was not trained on: each rule of `soft_maps`, the host organ, the anomaly
within organs, and what is unexplained (Eq. 14).

``python benchmarks/answers.py --bodies BENCHMARK WEIGHTS...``, where BENCHMARK is of another seed than what the tables
are of (``dsmseg synth benchmark -o BENCHMARK --seed 1``), so that nothing is chosen on the tables' own test bodies. One
JSON line for each weights, rule, column of a table and case; the last lines sum up by rule and column, means in %.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import cast, get_args

import numpy as np
from jaxtyping import Float32
from numpy.typing import NDArray
from torch import nn

from dsmseg import checkpoint
from dsmseg.checkpoint import Card
from dsmseg.evaluation.overlap import count_overlap
from dsmseg.evaluation.ranking import count_scores
from dsmseg.evaluation.regions import dilated
from dsmseg.inference import UnseenRule, soft_maps
from dsmseg.taxonomy import StructureClass, find
from dsmseg.volume import Volume

from bodies import tumor_columns

Array = Float32[NDArray[np.float32], "x y z"]

ANOMALY, UNEXPLAINED, HOST, IN_HOST = "anomaly", "unexplained", "host", "tumor in host"
RULES = (*get_args(UnseenRule), HOST, IN_HOST, ANOMALY, UNEXPLAINED)


def scored_by(rule: str, network: nn.Module, card: Card, scan: Volume, one: StructureClass) -> tuple[Array, str]:
    """Give the scores of a kind by a rule, and what answered."""
    if rule in {HOST, IN_HOST}:
        hosts = [find(name) for name in one.hosts]
        maps = soft_maps(network, card, scan, [*hosts, one], unseen="any-tumor")
        host = np.maximum.reduce([maps.probabilities[organ.name] for organ in hosts])
        return (host if rule == HOST else np.sqrt(host * maps.probabilities[one.name])), rule
    maps = soft_maps(
        network, card, scan, [one], unseen=cast(UnseenRule, rule if rule in get_args(UnseenRule) else "any-query")
    )
    if rule in {ANOMALY, UNEXPLAINED}:
        return (maps.anomaly if rule == ANOMALY else maps.unexplained), rule
    return maps.probabilities[one.name], maps.answered_by.get(one.name, one.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path, nargs="*")
    parser.add_argument("--bodies", type=Path, default=Path("bodies"))
    parser.add_argument("--tables", nargs="+", default=["table2"])
    parser.add_argument("--rules", nargs="+", default=list(RULES))
    arguments = parser.parse_args()
    if not arguments.weights:
        print(json.dumps({"what": "answers", "skipped": "name weights of Stage 2, and --bodies"}))
        return
    columns = tumor_columns(arguments.bodies, arguments.tables)
    sums: dict[tuple[str, str], list[dict[str, float]]] = defaultdict(list)
    for weights in arguments.weights:
        loaded = checkpoint.load(weights)
        network = checkpoint.network(loaded)
        for column, references in columns:
            for reference in references:
                case = reference.load()
                for one, mask in case.classes(column):
                    if not mask.any():
                        continue
                    body, host = case.body | mask, case.host(one) if one.kind == "tumor" else None
                    regions = (
                        {}
                        if host is None
                        else {"host": dilated(host, case.image.spacing) | mask, "inside": host | mask}
                    )
                    for rule in arguments.rules:
                        scores, answered_by = scored_by(rule, network, loaded.card, case.image, one)
                        counts = count_scores(scores, mask, body)
                        row = {"auroc": counts.auroc, "fpr95": counts.fpr95}
                        for name, region in regions.items():
                            row[f"{name}_auroc"] = count_scores(scores, mask, region).auroc
                        row["dsc"] = count_overlap(mask, (scores > 0.5) & body).dsc
                        place = {"weights": weights.parent.name, "seed": weights.parents[1].name, "rule": rule}
                        place |= {"column": column.title, "case": reference.files.id}
                        print(json.dumps(place | {"answered_by": answered_by} | row), flush=True)
                        sums[rule, column.title].append(row)
    for (rule, title), rows in sums.items():
        means = {
            name: round(100 * fmean(values), 1)
            for name in ("auroc", "fpr95", "host_auroc", "inside_auroc", "dsc")
            if (values := [row[name] for row in rows if row.get(name) is not None])
        }
        print(json.dumps({"rule": rule, "column": title, "scored": len(rows), **means}))


if __name__ == "__main__":
    main()

"""Where the mask prompt (Eq. 14 and 15) points: how much of a tumor it leads to, and of the body around it.

``python benchmarks/prompts.py --bodies BENCHMARK WEIGHTS...``: for each tumor of Tables 2 and 5 one window of the
network, centered on it. One JSON line for each weights, case and level, from the coarsest on: the share of the tumor's
voxels that the prompt lets tumor queries attend to, and the share of the body's. A prompt that helps marks more of the
tumor than of the body. The last lines sum up by column and level, means in %.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from torch.nn import functional

from dsmseg import checkpoint
from dsmseg.inference.windows import channels
from dsmseg.model.anomaly_prompt import anomaly_score, deviation_scores
from dsmseg.model.query_refinement import MASK_PROMPTS

from bodies import tumor_columns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path, nargs="*")
    parser.add_argument("--bodies", type=Path, default=Path("bodies"))
    arguments = parser.parse_args()
    if not arguments.weights:
        print(json.dumps({"what": "prompts", "skipped": "name weights of Stage 2, and --bodies"}))
        return
    columns = tumor_columns(arguments.bodies, ("table5", "table2"))
    sums: dict[tuple[str, str, int], list[tuple[float, float]]] = defaultdict(list)
    for weights in arguments.weights:
        loaded = checkpoint.load(weights)
        network = checkpoint.network(loaded)
        points_to = loaded.card.prompt
        for column, references in columns:
            for reference in references:
                case = reference.load()
                if not np.allclose(case.image.spacing, loaded.card.spacing_mm):
                    raise SystemExit(f"{reference.files.id} has not the weights' spacing: take the mini bodies")
                tumor = np.logical_or.reduce([mask for _, mask in case.classes(column)])
                if not tumor.any():
                    continue
                middle = [int(one.mean()) for one in np.nonzero(tumor)]
                sizes = loaded.card.window
                firsts = np.clip(np.subtract(middle, np.floor_divide(sizes, 2)), 0, np.subtract(tumor.shape, sizes))
                window = tuple(slice(first, first + size) for first, size in zip(firsts, sizes, strict=True))
                hu = torch.from_numpy(np.ascontiguousarray(case.image.array[window], dtype=np.float32))
                image = channels(hu, loaded.card.hu_windows)
                with torch.inference_mode():
                    responses = [one.float() for one in network(image).responses]
                if points_to == "deviation":
                    scores = deviation_scores(image, responses)
                else:
                    scores = [anomaly_score(response.sigmoid()) for response in responses]
                for level, score in enumerate(scores, 1):
                    marked = MASK_PROMPTS[points_to](score)[0].view(score.shape[1:]) == 0
                    shares = [
                        float((part * marked).sum() / part.sum())
                        for mask in (tumor, case.body)
                        for part in [filled(mask[window], marked.shape)]
                    ]
                    row = {"weights": weights.parent.name, "seed": weights.parents[1].name, "column": column.title}
                    row |= {"case": reference.files.id, "level": level, "of_tumor": shares[0], "of_body": shares[1]}
                    print(json.dumps(row), flush=True)
                    sums[weights.parent.name, column.title, level].append((shares[0], shares[1]))
    for (name, title, level), shares in sums.items():
        of_tumor, of_body = (round(100 * fmean(several), 1) for several in zip(*shares, strict=True))
        row = {"weights": name, "column": title, "level": level, "windows": len(shares)}
        print(json.dumps(row | {"of_tumor": of_tumor, "of_body": of_body}))


def filled(mask: np.ndarray, shape: torch.Size) -> torch.Tensor:
    """Give the part of each voxel of a level that a mask fills."""
    strides = [length // size for length, size in zip(mask.shape, shape, strict=True)]
    return functional.avg_pool3d(torch.from_numpy(np.ascontiguousarray(mask)).float()[None, None], strides)[0, 0]


if __name__ == "__main__":
    main()

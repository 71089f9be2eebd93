"""In the place of text alignment, in rows 1 and 5 of Table 5 (§ 6.4): queries say their class, as in MaskFormer.

No query is bound to a class. Training matches queries with the classes in a patch (``hungarian_matching``); afterwards
a class's mask is read from the query that most probably means it.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class Proposals(NamedTuple):
    """What each query, organ queries before tumor queries, says of a batch.

    mask_logits: where it sees its object.
    class_logits: which class that is, organs before tumors; the last one is "no object".
    """

    mask_logits: Float[Tensor, "batch query x y z"]
    class_logits: Float[Tensor, "batch query class_or_none"]


class QueryClassification(nn.Module):
    """The class of each query, or "no object", by a linear layer."""

    def __init__(self, *, width: int, classes: int) -> None:
        super().__init__()
        self.classify = nn.Linear(width, classes + 1)

    def forward(self, queries: Float[Tensor, "batch query width"]) -> Float[Tensor, "batch query class_or_none"]:
        """Give the logits of the classes and, last, of "no object"."""
        logits: Tensor = self.classify(queries)
        return logits


@torch.no_grad()
def class_masks(proposals: Proposals) -> Float[Tensor, "batch class x y z"]:
    """Read each class's mask, as logits, from the query that most probably means it; passes no gradient.

    A voxel is of class c with probability p(c) sigmoid(m), where m is the query's mask logit: as MaskFormer's semantic
    inference has it, but with one query for a class. A class that no query means therefore has an empty mask, whatever
    the masks of the queries.
    """
    log_probability = proposals.class_logits.float().log_softmax(dim=-1)[..., :-1]
    log_probability, query = log_probability.max(dim=1)
    items = torch.arange(len(query), device=query.device)[:, None]
    mask = proposals.mask_logits[items, query].float()
    log_probability = log_probability[..., None, None, None]
    inside = log_probability + functional.logsigmoid(mask)
    # 1 - p sigmoid(m), as a sum of two positive terms, so that nothing cancels.
    outside = torch.logaddexp(torch.log1p(-log_probability.exp()), log_probability + functional.logsigmoid(-mask))
    return inside - outside

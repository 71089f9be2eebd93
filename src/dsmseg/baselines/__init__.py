"""What the paper compares DSM with, over the same backbones, data and losses: torch modules, no files, no CT.

Each file is one method, written from its paper; docs/baselines.md compares them.
"""

from typing import Literal, get_args

from jaxtyping import Bool, Float
from torch import Tensor

from dsmseg.baselines.baseline import Baseline, BaselineOutput
from dsmseg.baselines.max_query import MaxQuery
from dsmseg.baselines.sml import StandardizedMaxLogits
from dsmseg.baselines.swin_unetr import SwinUNETRBaseline
from dsmseg.baselines.universal import UniversalModel
from dsmseg.model import DSMConfig

Method = Literal["dsm", "swin_unetr", "universal", "max_query", "sml"]

METHODS: tuple[Method, ...] = get_args(Method)
"""DSM and the baselines."""


def build(
    method: Method,
    config: DSMConfig,
    text_embeddings: Float[Tensor, "class text_width"] | None = None,
    trained: Bool[Tensor, "class"] | None = None,
) -> Baseline:
    """Build the network of a baseline over the backbone of ``config``, untrained.

    Args:
        method: which one; DSM's own are built by ``dsmseg.model.build``.
        config: sizes; its switches and its stage are DSM's alone.
        text_embeddings: of the class prompts, which ``universal`` needs.
        trained: the classes that labels tell of, organs before tumors; what the others answer is each method's rule for
            unseen kinds. None: all.
    """
    match method:
        case "swin_unetr":
            return SwinUNETRBaseline(config, trained)
        case "max_query":
            return MaxQuery(config, trained)
        case "sml":
            return StandardizedMaxLogits(config, trained)
        case "universal" if text_embeddings is not None:
            return UniversalModel(config, text_embeddings, trained)
        case "universal":
            raise ValueError("the Universal model needs the class prompts' text embeddings")
        case "dsm":
            raise ValueError("DSM is no baseline: dsmseg.model.build builds it")


__all__ = [
    "METHODS",
    "Baseline",
    "BaselineOutput",
    "MaxQuery",
    "Method",
    "StandardizedMaxLogits",
    "SwinUNETRBaseline",
    "UniversalModel",
    "build",
]

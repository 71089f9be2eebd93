"""Free text: which query a text means in a scan, and how well it fits (§ 4.2.3, Eq. 20)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from dsmseg.errors import InputError
from dsmseg.model.text_alignment import TextAlignment
from dsmseg.taxonomy import StructureClass, in_prompt
from dsmseg.text import packaged_embeddings

_ENCODER = "all-MiniLM-L6-v2"
_TEMPERATURE = 0.01  # tau of Eq. 20
_NAMED = 3
WINDOWS_HEARD = 4  # of a scan, to find what a text means in it
BY_QUERY, BY_PROMPT = "query", "class prompt"


@dataclass(frozen=True, slots=True)
class Match:
    """The query that a text means.

    Attributes:
        text: as it was asked for.
        query: the class that the query was made for.
        similarity: cosine of the text and what it was compared with, -1 to 1.
        probability: of this query for the text among all, by the softmax of Eq. 20; 0 to 1.
        compared_with: "query", the query as the network refined it for this scan, or "class prompt", the text of the
            query's class, where weights have no text alignment (Stage 1).
        runners_up: the next best queries with their similarity.
    """

    text: str
    query: StructureClass
    similarity: float
    probability: float
    compared_with: str
    runners_up: tuple[tuple[str, float], ...]

    def row(self) -> dict[str, Any]:
        """Give a JSON object."""
        return {
            "text": self.text,
            "query": self.query.name,
            "similarity": round(self.similarity, 4),
            "probability": round(self.probability, 4),
            "compared_with": self.compared_with,
            "runners_up": {name: round(similarity, 4) for name, similarity in self.runners_up},
        }


@dataclass(frozen=True, slots=True)
class Prompts:
    """Texts, and their embeddings by the text encoder of the weights."""

    texts: tuple[str, ...]
    embeddings: Float[Tensor, "text embedding"]

    @classmethod
    def encoded(cls, texts: Sequence[str], text_encoder: str) -> "Prompts":
        """Encode ``texts``.

        Raises:
            InputError: a text is empty, the weights' text encoder is not MiniLM, or it is not installed.
        """
        if text_encoder != _ENCODER:
            raise InputError(
                f"free text needs weights that were trained with {_ENCODER}, not with {text_encoder}",
                mend="Name classes instead (--classes).",
            )
        return cls(tuple(texts), torch.from_numpy(np.stack([_encoded(text) for text in texts])))

    @classmethod
    def of_classes(cls, classes: Sequence[StructureClass], alignment: TextAlignment) -> "Prompts":
        """Take the prompts of classes, by their names, as the weights hold them."""
        return cls(tuple(one.name for one in classes), alignment.text_embeddings[[one.id - 1 for one in classes]].cpu())

    @contextmanager
    def listening(self, alignment: TextAlignment | None) -> Iterator[list[Float[Tensor, "query text"]]]:
        """Yield a list that gets the similarities of each window that a network with ``alignment`` sees meanwhile."""
        heard: list[Tensor] = []

        def listen(module: nn.Module, arguments: tuple[Tensor, ...], _: Tensor) -> None:
            if isinstance(module, TextAlignment):
                texts = self.embeddings.to(module.text_embeddings.device)
                heard.extend(module.similarity(arguments[0], texts).cpu())

        handle = alignment.register_forward_hook(listen) if alignment is not None else None
        try:
            yield heard
        finally:
            if handle is not None:
                handle.remove()

    def matches(self, heard: Sequence[Float[Tensor, "query text"]], known: Sequence[StructureClass]) -> list[Match]:
        """Give the best of the ``known`` queries for each text, over all windows heard; if none, by class prompt."""
        if heard:
            similarity, compared_with = torch.stack(list(heard)).mean(dim=0), BY_QUERY
        else:
            classes = torch.from_numpy(packaged_embeddings())
            center = classes.mean(dim=0)
            similarity, compared_with = _cosines(classes - center, self.embeddings - center), BY_PROMPT
        rows = similarity[[one.id - 1 for one in known]]
        probability = (rows / _TEMPERATURE).softmax(dim=0)
        matches = []
        for column, text in enumerate(self.texts):
            order = rows[:, column].argsort(descending=True, stable=True).tolist()
            best, *others = order
            runners_up = tuple((known[row].name, float(rows[row, column])) for row in others[:_NAMED])
            fit = float(rows[best, column]), float(probability[best, column])
            matches.append(Match(text, known[best], *fit, compared_with, runners_up))
        return matches


@cache
def _encoded(text: str) -> Float[NDArray[np.float32], "embedding"]:
    from dsmseg.text.minilm import encode  # the encoder takes seconds to import

    if not text.strip():
        raise InputError("the prompt is empty", mend='Describe what is to be found, such as "liver cyst".')
    return encode(in_prompt(" ".join(text.split())))


def _cosines(rows: Float[Tensor, "row width"], columns: Float[Tensor, "column width"]) -> Float[Tensor, "row column"]:
    normalize = torch.nn.functional.normalize
    return normalize(rows, dim=-1) @ normalize(columns, dim=-1).T

"""What a recipe says on the card of its weights, so that they can be used and judged."""

from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import ValidationError

from dsmseg import checkpoint
from dsmseg.checkpoint import Card, TrainingData, read_backbone_card
from dsmseg.datasets.description import packaged
from dsmseg.datasets.store import StoredCase
from dsmseg.taxonomy import by_id
from dsmseg.training.reading import explain
from dsmseg.training.recipe import Recipe
from dsmseg.training.sources import Data


def describe(recipe: Recipe, stage: Literal[1, 2], data: Data, *, steps: int) -> Card:
    """Give the card of weights that ``recipe`` makes in a stage of so many steps.

    Raises:
        InputError: what the recipe says does not fit on a card.
        WeightsError: what it starts from is missing or damaged.
    """
    classes = [by_id(one) for one in sorted(data.annotated)]
    try:
        return Card(
            name=recipe.name,
            version=recipe.version,
            preset=recipe.preset,
            stage=stage,
            method=recipe.method,
            ablation=recipe.ablation,
            prompt=recipe.prompt,
            readings=recipe.readings,
            organs=tuple(one.name for one in classes if one.kind == "organ"),
            tumors=tuple(one.name for one in classes if one.kind == "tumor") if stage == 2 else (),
            text_encoder="all-MiniLM-L6-v2" if recipe.text is None else recipe.text.name,
            spacing_mm=(recipe.patch.spacing,) * 3,
            hu_windows=recipe.hu_windows,
            window=recipe.patch.size,
            training_data=tuple(_training_data(recipe, data)),
            licence=recipe.licence,
            figures={"steps": steps},
        )
    except ValidationError as error:
        raise explain(error, "recipe") from error


def _training_data(recipe: Recipe, data: Data) -> Iterator[TrainingData]:
    for body in recipe.bodies:
        yield TrainingData(name=body.name, licence=body.licence, source=body.source)
    if recipe.batch.synthetic and recipe.batch.phantoms:
        yield TrainingData(name="phantoms", licence="Apache-2.0", source="synthetic bodies made by dsmseg; no patient")
    yield from _stored(data.cases)
    if recipe.backbone is not None:  # what it was trained on is known by its card alone; its licence binds these too
        card = read_backbone_card(recipe.backbone)
        source = f"imported checkpoint ({card.holds}), sha256 {card.source_sha256}"
        yield TrainingData(name=f"backbone {card.source}", licence=card.licence, source=source)
    if recipe.start is not None:
        yield from checkpoint.load(recipe.start).card.training_data


def _stored(cases: Sequence[StoredCase]) -> Iterator[TrainingData]:
    known = {one.name: one for one in packaged()}
    counts: dict[str, int] = {}
    for case in cases:
        counts[case.record.dataset] = counts.get(case.record.dataset, 0) + 1
    for name, count in sorted(counts.items()):
        licence = known[name].licence if name in known else "unknown"
        yield TrainingData(name=name, licence=licence, source=f"{count} scans of a store made by dsmseg")

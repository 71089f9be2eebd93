"""What a recipe says on the card of its weights, so that they can be used and judged."""

from pydantic import ValidationError

from dsmseg.checkpoint import Card, TrainingData, read_backbone_card
from dsmseg.synthesis.anatomy import phantom_anatomy, totalsegmentator
from dsmseg.taxonomy import by_id
from dsmseg.training.recipe import Recipe, explain


def describe(recipe: Recipe, steps: int) -> Card:
    """Give the card of weights that ``recipe`` makes in ``steps``.

    Raises:
        InputError: what the recipe says does not fit on a card.
        WeightsError: the backbone to start from is missing or damaged.
    """
    try:
        return _card(recipe, steps)
    except ValidationError as error:
        raise explain(error, "recipe") from error


def _card(recipe: Recipe, steps: int) -> Card:
    return Card(
        name=recipe.name,
        version=recipe.version,
        preset=recipe.preset,
        stage=1,
        organs=tuple(by_id(organ).name for organ in _annotated(recipe)),
        tumors=(),
        text_encoder="all-MiniLM-L6-v2",
        spacing_mm=(recipe.patch.spacing,) * 3,
        hu_windows=recipe.hu_windows,
        window=recipe.patch.size,
        training_data=(
            *(TrainingData(name=body.name, licence=body.licence, source=body.source) for body in recipe.bodies),
            *_phantoms(recipe),
            *_pretraining(recipe),
        ),
        licence=recipe.licence,
        figures={"steps": steps},
    )


def _annotated(recipe: Recipe) -> tuple[int, ...]:
    return (phantom_anatomy() if recipe.phantoms else totalsegmentator()).annotated_organs


def _phantoms(recipe: Recipe) -> tuple[TrainingData, ...]:
    if not recipe.phantoms:
        return ()
    return (TrainingData(name="phantoms", licence="Apache-2.0", source="synthetic bodies made by dsmseg; no patient"),)


def _pretraining(recipe: Recipe) -> tuple[TrainingData, ...]:
    """What the backbone was trained on is known by its checkpoint alone; its licence binds these weights too."""
    if recipe.backbone is None:
        return ()
    card = read_backbone_card(recipe.backbone)
    source = f"imported checkpoint ({card.holds}), sha256 {card.source_sha256}"
    return (TrainingData(name=f"backbone {card.source}", licence=card.licence, source=source),)

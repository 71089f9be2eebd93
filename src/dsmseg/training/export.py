"""From a run to weights that can be used and judged: the averaged parameters and a model card."""

from pathlib import Path

from pydantic import ValidationError

from dsmseg import checkpoint
from dsmseg.checkpoint import Card, TrainingData
from dsmseg.errors import InputError
from dsmseg.synthesis.anatomy import totalsegmentator
from dsmseg.taxonomy import by_id
from dsmseg.training.recipe import Recipe
from dsmseg.training.state import read_average


def export(recipe: Recipe, state_file: Path, target: Path) -> Card:
    """Write the averaged weights of a run's ``state_file`` to ``target`` (.safetensors), with a card beside them.

    Raises:
        WeightsError: the run's state cannot be read.
        OutputError: ``target`` cannot be written.
    """
    step, state = read_average(state_file)
    return checkpoint.save(target, state, describe(recipe, step))


def describe(recipe: Recipe, steps: int) -> Card:
    """Give the card of weights that ``recipe`` makes in ``steps``.

    Raises:
        InputError: what the recipe says does not fit on a card.
    """
    try:
        return _card(recipe, steps)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InputError(f"'{place}': {first['msg']}", where="recipe", mend="Correct this setting.") from error


def _card(recipe: Recipe, steps: int) -> Card:
    return Card(
        name=recipe.name,
        version=recipe.version,
        preset=recipe.preset,
        stage=1,
        organs=tuple(by_id(organ).name for organ in totalsegmentator().annotated_organs),
        tumors=(),
        text_encoder="all-MiniLM-L6-v2",
        spacing_mm=(recipe.patch.spacing,) * 3,
        hu_windows=recipe.hu_windows,
        window=recipe.patch.size,
        training_data=tuple(
            TrainingData(name=body.name, licence=body.licence, source=body.source) for body in recipe.bodies
        ),
        licence=recipe.licence,
        figures={"steps": steps},
    )

"""From a run to weights that can be used and judged: the averaged parameters and a model card."""

from pathlib import Path

from dsmseg import checkpoint
from dsmseg.checkpoint import Card, TrainingData
from dsmseg.synthesis.anatomy import totalsegmentator
from dsmseg.taxonomy import by_id
from dsmseg.training.recipe import Recipe
from dsmseg.training.state import read_average


def export(directory: Path, target: Path) -> Card:
    """Write the averaged weights of the run in ``directory`` to ``target`` (.safetensors), with a card beside them.

    Raises:
        WeightsError: the run's state cannot be read.
        OutputError: ``target`` cannot be written.
    """
    recipe = Recipe.model_validate_json((directory / "recipe.json").read_text(encoding="utf-8"))
    step, state = read_average(directory / "state.safetensors")
    card = Card(
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
        figures={"steps": step},
    )
    return checkpoint.save(target, state, card)

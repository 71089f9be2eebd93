"""Recipes are checked before anything is computed."""

from pathlib import Path

import pytest

from dsmseg.errors import InputError
from dsmseg.training.recipe import load_recipe

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_recipes_of_the_repository_are_valid(path) -> None:
    assert load_recipe(path).name == path.stem


def test_a_setting_can_be_overridden(recipe_file) -> None:
    recipe = load_recipe(recipe_file, ["steps=9", "optimization.warm_up=7", "patch.spacing=1.5"])
    assert (recipe.steps, recipe.optimization.warm_up, recipe.patch.spacing) == (9, 7, 1.5)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("setps=3", "'setps' is no setting.*Did you mean 'steps'"),
        ("optimization.learning_rat=1", "'optimization.learning_rat'.*Did you mean 'learning_rate'"),
        ("steps=many", "'steps': Input should be a valid integer"),
        ("steps=0", "'steps': Input should be greater than or equal to 1"),
        ("preset=huge", "'preset': Input should be"),
        ("steps", "is not KEY=VALUE"),
        ("steps=[", "is no YAML"),
        ("steps.x=1", "'steps' has no settings inside"),
        ("bodies=[{nam: x}]", "nam"),
        ("bodies=[]", "bodies are missing"),
        ("hu_windows=[[-100, 100]]", "takes 2 hu_windows, not 1"),
    ],
)
def test_a_wrong_setting_is_named_with_the_nearest_right_one(recipe_file, override, told) -> None:
    with pytest.raises(InputError, match=told) as error:
        load_recipe(recipe_file, [override])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["", "- a\n- b\n", "steps: [", "\x00"])
def test_what_is_no_recipe_is_refused_in_one_line(tmp_path, content) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=r"bad\.yaml") as error:
        load_recipe(path)
    assert "\n" not in str(error.value)


def test_a_missing_recipe_is_named(tmp_path) -> None:
    with pytest.raises(InputError, match=r"absent\.yaml"):
        load_recipe(tmp_path / "absent.yaml")

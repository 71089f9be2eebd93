"""Recipes are checked before anything is computed."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dsmseg.errors import InputError
from dsmseg.training.reading import load_recipe
from dsmseg.training.settings import Length

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_recipes_of_the_repository_are_valid(path) -> None:
    assert load_recipe(path).name == path.stem


def test_a_setting_can_be_overridden(recipe_file) -> None:
    recipe = load_recipe(recipe_file, ["stage_1.length=9", "stage_1.warm_up=7 epochs", "patch.spacing=1.5"])
    assert recipe.stage_1.length == Length(9, "steps")
    assert recipe.stage_1.warm_up.steps(epoch=3) == 21
    assert recipe.patch.spacing == 1.5


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("sead=3", r"--set sead=3: 'sead' is no setting.*Did you mean 'seed'"),
        ("stage_1.learning_rat=1", "'stage_1.learning_rat'.*Did you mean 'learning_rate'"),
        ("stage_1.length=many", "'stage_1.length': write how long as '3000 steps'"),
        ("stage_1.length=0", "lasts at least 1 step"),
        ("stage_1.length=3 weeks", "write how long"),
        ("preset=huge", "'preset': Input should be"),
        ("seed", "is not KEY=VALUE"),
        ("seed=[", "is no YAML"),
        ("preset.x=1", "'preset' has no settings inside"),
        ("bodies=[{nam: x}]", "nam"),
        ("bodies=[]", "no body has an image"),
        ("hu_windows=[[-100, 100]]", "takes 2 hu_windows, not 1"),
        ("stage_1=null", "neither a stage_1 nor a stage_2"),
        ("batch={}", "asks for no patches"),
        ("batch={stored: 2}", "there is no store"),
        ("classes=[wombat]", "wombat"),
        ("freeze=[head]", "'freeze.0'"),
        ("stage_1.branch_first=2 steps", "only Stage 2 has a deviation branch"),
        ("hardware.devices=3", "cannot be shared out to 3 parts"),
        ("freeze=[backbone, organ_decoder, organ_head, presence_head]", "leaves Stage 1 nothing to learn"),
        ("stage_2={length: 3 steps}", "have them put into drawn ones"),
        ("tumors={kinds: [liver]}", "an organ, not a kind of tumor"),
        ("tumors={kinds: []}", "at least 1"),
    ],
)
def test_a_wrong_setting_is_named_with_the_nearest_right_one(recipe_file, override, told) -> None:
    with pytest.raises(InputError, match=told) as error:
        load_recipe(recipe_file, [override])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("setting", "told"),
    [("hardware.devices=2", "in one process only"), ("readings.deviation=false", "needs a deviation branch")],
)
def test_a_branch_that_is_missing_or_shared_cannot_learn_alone(stored_recipe, setting, told) -> None:
    with pytest.raises(InputError, match=told):
        load_recipe(stored_recipe, ["stage_2.branch_first=2 steps", "batch.stored=2", setting])


@pytest.mark.parametrize("certainty", ["given", "none"])
def test_text_alignment_is_taught_by_something(stored_recipe, certainty) -> None:
    setting = f"loss.certainty={certainty}"
    with pytest.raises(InputError, match="leaves nothing that teaches text_alignment"):
        load_recipe(stored_recipe, [setting, "loss.alignment=0"])
    assert load_recipe(stored_recipe, [setting]).loss.certainty == certainty
    assert load_recipe(stored_recipe, [setting, "loss.alignment=0", "stage_2=null"]).loss.certainty == certainty


@pytest.mark.parametrize("wrong", ["  elastik: 3", "  spacing: wide"])
def test_what_is_wrong_is_named_with_its_line(recipe_file, wrong) -> None:
    sizes = "patch: {size: [32, 32, 64]}"
    text = recipe_file.read_text().replace(sizes, f"# the patch\npatch:\n  size: [32, 32, 64]\n{wrong}")
    recipe_file.write_text(text)
    line = text.splitlines().index(wrong) + 1
    with pytest.raises(InputError, match=rf"tiny\.yaml, line {line}: 'patch\."):
        load_recipe(recipe_file)


@pytest.mark.parametrize("content", ["", "- a\n- b\n", "seed: [", "\x00"])
def test_what_is_no_recipe_is_refused_in_one_line(tmp_path, content) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=r"bad\.yaml") as error:
        load_recipe(path)
    assert "\n" not in str(error.value)


def test_a_missing_recipe_is_named(tmp_path) -> None:
    with pytest.raises(InputError, match=r"absent\.yaml"):
        load_recipe(tmp_path / "absent.yaml")


def _paths(node, prefix=()):
    if isinstance(node, dict):
        for key, value in node.items():
            yield (*prefix, key)
            yield from _paths(value, (*prefix, key))


ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(min_size=1, max_size=6), st.integers(), max_size=2),
)  # fmt: skip


@given(data=st.data())
def test_whatever_is_changed_is_accepted_or_refused_in_one_line(tmp_path_factory, data) -> None:
    source = data.draw(st.sampled_from(sorted(RECIPES.glob("*.yaml"))))
    content = yaml.safe_load(source.read_text())
    *parents, last = data.draw(st.sampled_from(list(_paths(content))))
    section = content
    for key in parents:
        section = section[key]
    if data.draw(st.booleans()):
        section[last] = data.draw(ANYTHING)
    else:
        section[last + data.draw(st.text(alphabet="aeiou_", min_size=1, max_size=2))] = section.pop(last)
    path = tmp_path_factory.mktemp("mutated") / "mutated.yaml"
    path.write_text(yaml.safe_dump(content))
    try:
        load_recipe(path)
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017
        assert "mutated.yaml" in str(error)  # noqa: PT017


def test_a_stage_freezes_its_own_parts_beside_those_of_the_recipe(stored_recipe) -> None:
    recipe = load_recipe(stored_recipe, ["freeze=[presence_head]", "stage_2.freeze=[backbone, organ_decoder]"])
    assert recipe.frozen(1) == {"presence_head"}
    assert recipe.frozen(2) == {"presence_head", "backbone", "organ_decoder"}


def test_a_stage_that_freezes_all_of_its_parts_is_refused(stored_recipe) -> None:
    parts = "backbone, organ_decoder, organ_head, presence_head"
    assert load_recipe(stored_recipe, [f"stage_2.freeze=[{parts}]"]).frozen(1) == frozenset()
    with pytest.raises(InputError, match="Stage 1 nothing to learn"):
        load_recipe(stored_recipe, [f"stage_1.freeze=[{parts}]"])


def test_some_phase_of_contrast_is_drawn(recipe_file) -> None:
    with pytest.raises(InputError, match=r"patch.phases are all 0"):
        load_recipe(recipe_file, ["patch.phases=[0, 0, 0]"])

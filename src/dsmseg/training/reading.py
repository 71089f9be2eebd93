"""Recipes from files: YAML with overrides; what is wrong is named with its line and the nearest right name."""

from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from dsmseg.errors import DsmsegError, InputError
from dsmseg.training.recipe import Recipe

_START = "Start from one in recipes/."


def load_recipe(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe; ``overrides`` are ``key.key=value`` with values in YAML.

    Raises:
        InputError: the file cannot be read, or a key is unknown or ill-typed (line and nearest name are given).
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read ({error})", where=path, mend=_START) from error
    content = _parse(text, path)
    if not isinstance(content, dict):
        raise InputError("is not a table of settings", where=path, mend=_START)
    for override in overrides or []:
        _apply(content, override)
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        keys = ".".join(str(key) for key in _worst(error)["loc"])
        blamed = next((one for one in overrides or [] if keys.startswith(one.partition("=")[0])), None)
        raise (explain(error, path, text) if blamed is None else explain(error, f"--set {blamed}")) from error


def explain(error: ValidationError, where: object, text: str = "") -> InputError:
    """Say in one line which setting is wrong, and where; of one that does not exist, the nearest name."""
    first = _worst(error)
    keys = first["loc"]
    place = ".".join(str(key) for key in keys)
    line = _line_of(keys, text)
    if line:
        where = f"{where}, line {line}"
    if first["type"] != "extra_forbidden":
        cause = first.get("ctx", {}).get("error")
        found = cause.what if isinstance(cause, DsmsegError) else first["msg"].removeprefix("Value error, ")
        return InputError(f"'{place}': {found}" if place else found, where=where, mend="Correct this setting.")
    section = _section_of(keys[:-1])
    names = get_close_matches(str(keys[-1]), list(section.model_fields), n=1, cutoff=0.0)
    return InputError(f"'{place}' is no setting", where=where, mend=f"Did you mean '{names[0]}'?")


def _worst(error: ValidationError) -> Any:
    """Choose what to tell: of several faults a name that does not exist, since others follow from it."""
    errors = error.errors()
    return next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])


def _section_of(keys: tuple[int | str, ...]) -> type[BaseModel]:
    """Give the model of the section that keys lead to."""
    section: type[BaseModel] = Recipe
    for key in keys:
        if isinstance(key, str):
            section = _model_in(section.model_fields[key].annotation) or section
    return section


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)


def _line_of(keys: tuple[int | str, ...], text: str) -> int | None:
    """Give the line in which the setting stands, or the section that it misses in; None if not in this text."""
    import yaml

    node = yaml.compose(text, Loader=yaml.SafeLoader) if text else None
    line = None
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            found = next(((name, value) for name, value in node.value if name.value == str(key)), None)
            if found is None:
                return line
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
            line = node.start_mark.line + 1
    return line


def _apply(content: dict[str, Any], override: str) -> None:
    keys, separator, value = override.partition("=")
    if not separator:
        raise InputError(f"'{override}' is not KEY=VALUE", where="--set", mend="Write for example --set seed=1.")
    *parents, last = keys.split(".")
    for parent in parents:
        content = content.setdefault(parent, {})
        if not isinstance(content, dict):
            raise InputError(f"'{parent}' has no settings inside", where=f"--set {override}", mend="Name it alone.")
    content[last] = _parse(value, f"--set {override}")


def _parse(text: str, where: object) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise InputError("recipes need PyYAML", mend='Install it: pip install "dsmseg[train]"') from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"is no YAML ({error})", where=where, mend="Start from a recipe in recipes/.") from error

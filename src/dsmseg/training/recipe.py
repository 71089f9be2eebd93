"""A training run as a YAML file: everything that decides its result, checked before anything is read or computed."""

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dsmseg.errors import InputError
from dsmseg.model import PRESETS

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Side = Annotated[int, Field(ge=32, multiple_of=32)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BodySource(_Section):
    """A labelled body to learn from: a TotalSegmentator label map and, where it has one, its CT."""

    labels: Path
    image: Path | None = None
    name: str
    licence: str
    source: str


class Patch(_Section):
    """Size in voxels, spacing in mm, and how bodies are deformed: degrees, relative size, mm.

    truncation: how often a patch is a thin slab, from step ``truncation_from`` on.
    """

    size: tuple[Side, Side, Side] = (64, 64, 64)
    spacing: Positive = 3.0
    rotation: NotNegative = 10.0
    scale: tuple[Positive, Positive] = (0.8, 1.25)
    stretch: Fraction = 0.1
    elastic: NotNegative = 6.0
    truncation: Fraction = 0.0
    truncation_from: Natural = 0


class Optimization(_Section):
    """AdamW, warm-up, a plateau, and a linear cool-down to zero over the last steps.

    Batch normalization keeps its running statistics in the cool-down, so that the network is trained as it is used.
    """

    learning_rate: Positive = 1e-3
    weight_decay: NotNegative = 1e-2
    clip_norm: Positive = 1.0
    warm_up: Natural = 200
    cool_down: Natural = 1500
    average: Fraction = 0.999


class Recipe(_Section):
    """One training run of Stage 1.

    batch: patches a step from real CT and from synthetic intensities. phantoms: the share of the synthetic patches that
    are phantoms; the others are deformed bodies. reuse: how often a drawn patch is used.
    cross_entropy_weight: of Eq. 12 beside Eq. 11. response_weight, presence_weight: of the two losses beside Eq. 13.
    data: folder that the bodies' paths start from. backbone: weights that `dsmseg weights import` has written, to start
    from; without them the backbone starts at random.
    """

    name: str
    version: str
    preset: Literal["starter", "base", "paper"]
    seed: int = 0
    steps: Count
    batch: tuple[Natural, Natural] = (1, 1)
    phantoms: Fraction = 0.0
    reuse: Count = 3
    cross_entropy_weight: NotNegative = 20.0
    response_weight: NotNegative = 0.5
    presence_weight: NotNegative = 0.1
    precision: Literal["bf16", "fp32"] = "bf16"
    checkpoint_every: Count = 250
    hu_windows: tuple[tuple[float, float], ...] = ((-175.0, 250.0), (-1000.0, 1000.0))
    patch: Patch = Patch()
    optimization: Optimization = Optimization()
    licence: str
    data: Path = Path()
    backbone: Path | None = None
    bodies: tuple[BodySource, ...] = ()

    @model_validator(mode="after")
    def _fits_the_preset(self) -> Self:
        channels = PRESETS[self.preset].input_channels
        if len(self.hu_windows) != channels:
            raise ValueError(f"preset {self.preset} takes {channels} hu_windows, not {len(self.hu_windows)}")
        if sum(self.batch) == 0:
            raise ValueError("batch asks for no patches")
        if not self.bodies and self.phantoms < 1:
            raise ValueError("bodies are missing; with phantoms = 1 there need be none")
        if self.batch[0] and not any(body.image for body in self.bodies):
            raise ValueError("batch asks for real patches, but no body has an image")
        return self


def load_recipe(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe; ``overrides`` are ``key.key=value`` with values in YAML.

    Raises:
        InputError: the file cannot be read, or a key is unknown or ill-typed (the nearest name is given).
    """
    try:
        content = _parse(path.read_text(encoding="utf-8"), path)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read ({error})", where=path, mend="Start from one in recipes/.") from error
    if not isinstance(content, dict):
        raise InputError("is not a table of settings", where=path, mend="Start from one in recipes/.")
    for override in overrides or []:
        _apply(content, override)
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise explain(error, path) from error


def _apply(content: dict[str, Any], override: str) -> None:
    keys, separator, value = override.partition("=")
    if not separator:
        raise InputError(f"'{override}' is not KEY=VALUE", where="--set", mend="Write for example --set steps=100.")
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


def explain(error: ValidationError, where: object) -> InputError:
    """Say in one line which setting is wrong; of one that does not exist, the nearest name."""
    errors = error.errors()
    first = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] != "extra_forbidden":
        found = f"'{place}': {first['msg']}" if place else first["msg"]
        return InputError(found, where=where, mend="Correct this setting.")
    *parents, key = first["loc"]
    section: Any = Recipe
    for parent in parents:
        annotation = section.model_fields[parent].annotation if isinstance(parent, str) else section
        section = BodySource if parent == "bodies" else annotation
    names = get_close_matches(str(key), list(section.model_fields), n=1, cutoff=0.0)
    return InputError(f"'{place}' is no setting", where=where, mend=f"Did you mean '{names[0]}'?")

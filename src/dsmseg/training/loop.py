"""The training loop of Stage 1, read from top to bottom."""

import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import convert_conv3d_weight_memory_format

from dsmseg import checkpoint
from dsmseg.errors import InputError
from dsmseg.files import write_atomically, write_json
from dsmseg.model import DSM, PRESETS, DSMOutput, build
from dsmseg.model.losses import PartialLabels, mask_loss, presence_loss, response_loss, soft_dice
from dsmseg.synthesis.anatomy import totalsegmentator
from dsmseg.synthesis.bodies import PatchPlan, read_body
from dsmseg.synthesis.warp import WarpRange
from dsmseg.training.card import describe
from dsmseg.training.patches import BatchSource
from dsmseg.training.recipe import Optimization, Recipe, load_recipe
from dsmseg.training.state import Average, load_state, save_state

REPORT_EVERY = 20

Report = Callable[[dict[str, float]], None]


def train(recipe: Recipe, directory: Path, *, resume: bool = False, report: Report | None = None) -> Path:
    """Train what ``recipe`` says in ``directory``; gives the path of the weights.

    Writes ``recipe.json``, ``log.jsonl`` (losses every few steps), ``state.safetensors``, and at the end the averaged
    weights with their card. The run may be stopped at any time and goes on with ``resume``, from the last state, with
    the same batches: it ends as if it had not been stopped. ``report`` is given each entry of the log.

    Raises:
        InputError: the folder holds another run or another recipe's, or a body cannot be read.
        WeightsError: the folder's state is damaged, or the backbone to start from is, or does not fit the preset.
    """
    state_file = directory / "state.safetensors"
    goes_on = state_file.exists()
    if goes_on and not resume:
        raise InputError("holds a run already", where=directory, mend="Add --resume, or choose another folder.")
    if goes_on:
        _refuse_other_recipe(recipe, directory / "recipe.json")
    describe(recipe, 0)  # what the card would refuse at the end is refused now
    batches = _batches(recipe)
    torch.manual_seed(recipe.seed)
    network = build(replace(PRESETS[recipe.preset], stage=1))
    if recipe.backbone is not None:
        checkpoint.fill_backbone(network.backbone, recipe.backbone)
    network = convert_conv3d_weight_memory_format(network, torch.channels_last_3d)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=recipe.optimization.weight_decay, fused=True)
    average = Average(network, recipe.optimization.average)
    start = 0
    if goes_on:
        start = load_state(state_file, network=network, average=average, optimizer=optimizer)
    write_json(directory / "recipe.json", recipe.model_dump(mode="json"))
    with _journal(directory / "log.jsonl", start, report) as record:
        for step in range(start, recipe.steps):
            terms = _step(network, batches, optimizer, recipe, step)
            average.update(network, step)
            record(step, terms)
            if (step + 1) % recipe.checkpoint_every == 0 or step + 1 == recipe.steps:
                save_state(state_file, step=step + 1, network=network, average=average, optimizer=optimizer)
    weights = directory / f"{recipe.name}.safetensors"
    checkpoint.save(weights, average.state, describe(recipe, max(start, recipe.steps)))
    return weights


def learning_rate(step: int, steps: int, plan: Optimization) -> float:
    """Give the rate of ``step``: linear warm-up, plateau, linear cool-down to zero at ``steps``."""
    rising = (step + 1) / max(1, plan.warm_up)
    falling = (steps - step) / max(1, plan.cool_down)
    return plan.learning_rate * min(1.0, rising, falling)


def losses(output: DSMOutput, labels: PartialLabels, recipe: Recipe) -> dict[str, Tensor]:
    """Give the weighted terms of Stage 1's loss: Eq. 13, each level's response, presence (§ 4.1.2)."""
    weight = recipe.cross_entropy_weight
    return {
        "mask": mask_loss(output.organ_logits, labels, cross_entropy_weight=weight),
        "response": recipe.response_weight * response_loss(output.responses, labels, cross_entropy_weight=weight),
        "presence": recipe.presence_weight * presence_loss(output.presence, labels),
    }


def _step(
    network: DSM, batches: BatchSource, optimizer: torch.optim.Optimizer, recipe: Recipe, step: int
) -> dict[str, float]:
    plan = recipe.optimization
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, recipe.steps, plan)
    _set_mode(network, cooling=step >= recipe.steps - plan.cool_down)
    batch = batches[step]
    with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
        output = network(batch.image.contiguous(memory_format=torch.channels_last_3d))
    terms = losses(output, batch.labels, recipe)
    total = torch.stack(list(terms.values())).sum()
    if not bool(total.isfinite()):
        raise FloatingPointError(f"the loss of step {step} is not finite: {terms}")
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(total)
    nn.utils.clip_grad_norm_(network.parameters(), plan.clip_norm)
    optimizer.step()
    measured = {name: float(term.detach()) for name, term in terms.items()}
    return measured | {"dice": soft_dice(output.organ_logits.detach(), batch.labels)}


def _set_mode(network: nn.Module, *, cooling: bool) -> None:
    network.train()
    if cooling:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.eval()


def _batches(recipe: Recipe) -> BatchSource:
    anatomy = totalsegmentator()
    bodies = [
        read_body(recipe.data / source.labels, source.image and recipe.data / source.image, anatomy)
        for source in recipe.bodies
    ]
    patch = recipe.patch
    warp = WarpRange(rotation=patch.rotation, scale=patch.scale, stretch=patch.stretch, elastic=patch.elastic)
    full = PatchPlan(size=patch.size, spacing=patch.spacing, warp=warp)
    thin = replace(full, truncation=patch.truncation)
    return BatchSource(
        bodies,
        plan=lambda step: thin if step >= patch.truncation_from else full,
        hu_windows=recipe.hu_windows,
        organs=PRESETS[recipe.preset].organs,
        batch=recipe.batch,
        reuse=recipe.reuse,
        seed=recipe.seed,
        phantoms=recipe.phantoms,
    )


def _refuse_other_recipe(recipe: Recipe, path: Path) -> None:
    """A run may be made longer or shorter, or find its data elsewhere; all else would make it another run."""
    before = load_recipe(path)  # JSON is YAML
    cool_down = {"cool_down": before.optimization.cool_down}
    may_change = {"steps": before.steps, "data": before.data, "checkpoint_every": before.checkpoint_every}
    now = recipe.model_copy(update={**may_change, "optimization": recipe.optimization.model_copy(update=cool_down)})
    changed = [name for name in Recipe.model_fields if getattr(before, name) != getattr(now, name)]
    if changed:
        raise InputError(
            f"was started with another '{changed[0]}'", where=path, mend="Take its recipe, or choose another folder."
        )


@contextmanager
def _journal(path: Path, start: int, report: Report | None) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """Append to the log, without what was written after the state that the run goes on from."""
    if path.exists():
        entries = [line for line in path.read_text("utf-8").splitlines() if json.loads(line)["step"] <= start]
        write_atomically(path, lambda temporary: temporary.write_text("".join(f"{line}\n" for line in entries)))
    with path.open("a", encoding="utf-8") as file:
        steps: list[dict[str, float]] = []
        began = time.monotonic()

        def record(step: int, terms: dict[str, float]) -> None:
            nonlocal began
            steps.append(terms)
            if (step + 1) % REPORT_EVERY:
                return
            now = time.monotonic()
            means = {name: statistics.fmean(one[name] for one in steps) for name in terms}
            entry = {"step": step + 1, "seconds_a_step": (now - began) / len(steps), **means}
            file.write(json.dumps(entry) + "\n")
            file.flush()
            if report is not None:
                report(entry)
            steps.clear()
            began = now

        yield record

"""A network that learns: one stage's parameters, optimizer and average, a step at a time."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import convert_conv3d_weight_memory_format

from dsmseg import baselines, checkpoint
from dsmseg.baselines import Baseline, BaselineOutput
from dsmseg.checkpoint import Card
from dsmseg.errors import InputError, WeightsError
from dsmseg.model import DSM, PRESETS, DSMOutput, ablated, build
from dsmseg.model.kmax_mamba import QueryBlock
from dsmseg.model.losses import PartialLabels
from dsmseg.model.swin_unetr import SwinUNETR
from dsmseg.synthesis.noise import generator as stream
from dsmseg.taxonomy import CLASSES
from dsmseg.training.course_settings import Stage
from dsmseg.training.faults import NotFiniteError, first_layer_without_numbers
from dsmseg.training.launching import anywhere
from dsmseg.training.objective import dice, known_counts, losses, losses_within_organs, readings
from dsmseg.training.patches import Batch
from dsmseg.training.prompts import text_embeddings
from dsmseg.training.recipe import Recipe
from dsmseg.training.schedule import Schedule
from dsmseg.training.sources import Data
from dsmseg.training.state import (
    Average,
    Position,
    State,
    fill_network,
    fill_optimizer,
    network_tensors,
    optimizer_tensors,
    unfit,
    whole,
)

if TYPE_CHECKING:
    from lightning_fabric import Fabric


Number = TypeVar("Number", int, float)


class Learner:
    """What learns in one stage.

    network: as built; ``module`` is what Fabric made of it, spread over processes. schedule: of the learning rate.
    """

    def __init__(self, fabric: "Fabric", recipe: Recipe, number: Literal[1, 2], stage: Stage, data: Data) -> None:
        self.fabric, self.recipe, self.number, self.stage = fabric, recipe, number, stage
        self.schedule = Schedule.of(stage, data.epoch(recipe.batch.size))
        torch.manual_seed(recipe.seed + number)
        self.network = _build(recipe, number, data)
        for part in recipe.frozen(number):
            if (frozen := getattr(self.network, part)) is not None:
                frozen.requires_grad_(False)
        network: nn.Module = self.network
        if recipe.hardware.checkpointing:
            _recompute_activations(network)
        if recipe.hardware.compile:
            network = torch.compile(network)  # type: ignore[assignment]
        self.module: Any = fabric.setup_module(network)
        learning = [one for one in self.module.parameters() if one.requires_grad]
        fused = fabric.device.type in ("cpu", "cuda")
        optimizer = torch.optim.AdamW(learning, weight_decay=stage.weight_decay, fused=fused)
        self.optimizer: Any = fabric.setup_optimizers(optimizer)
        self.average = Average(self.network, stage.average)

    def step(self, batches: Sequence[Batch], step: int) -> dict[str, float]:
        """Learn from this process's part of a step's batches.

        Gives the terms of the loss over the whole batch, and the Dice of this process's part.

        Raises:
            NotFiniteError: a loss is no number.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate(step)
        self._set_mode(cooling=self.schedule.cools(step))
        self.optimizer.zero_grad(set_to_none=True)
        organs = PRESETS[self.recipe.preset].organs
        matched = isinstance(self.network, DSM) and self.network.query_classification is not None
        counts = [known_counts(batch.labels, organs, matched=matched) for batch in batches]
        everywhere = self._summed({name: sum(one[name] for one in counts) for name in counts[0]})
        measured: dict[str, float] = {}
        scores: dict[str, float] = {}
        for place, (batch, own) in enumerate(zip(batches, counts, strict=True)):
            last = place + 1 == len(batches)
            with self.fabric.no_backward_sync(self.module, enabled=not last):
                image = batch.image.contiguous(memory_format=torch.channels_last_3d)
                output, terms = self._answer_and_losses(image, batch.labels, step)
                # Each term is a mean over what is known; shares make it that of the whole batch.
                shared = {name: term * (own[name] / max(1, everywhere[name])) for name, term in terms.items()}
                total = torch.stack(list(shared.values())).sum()
                here = not bool(total.isfinite())
                if anywhere(self.fabric, here):
                    self._tell_not_finite(batch, step, terms, here=here)
                self.fabric.backward(total * self.fabric.world_size)  # gradients are averaged over processes
            for name, term in shared.items():
                if not everywhere[name]:  # nothing is known, say of tumors: no value, rather than 0
                    continue
                measured[name] = measured.get(name, 0.0) + float(term.detach())
            if step >= self.schedule.branch_first:
                scores |= dice(output, batch.labels)
        norm = self.fabric.clip_gradients(
            self.module, self.optimizer, max_norm=self.stage.clip_norm, error_if_nonfinite=False
        )
        if norm is not None and not bool(whole(norm).isfinite()):  # the same in every process
            raise NotFiniteError(batches[-1], step + 1, "of a gradient", measured, self.fabric.global_rank)
        self.optimizer.step()
        self.average.update(step)
        told = {} if norm is None else {"gradient norm": float(whole(norm))}  # before clipping
        return self._summed(measured) | scores | told

    @torch.no_grad()
    def answer(self, batch: Batch) -> DSMOutput | BaselineOutput:
        """Give what the network says now, in evaluation mode."""
        self.network.eval()
        with self.fabric.autocast():
            output: DSMOutput | BaselineOutput = self.network(
                batch.image.contiguous(memory_format=torch.channels_last_3d)
            )
        return output

    def state(self, steps: int) -> State:
        """Give everything that the stage goes on from after so many steps. Batches follow from seed and step."""
        tensors = {f"network/{name}": one for name, one in network_tensors(self.network).items()}
        with self.average.in_place():
            tensors |= {f"average/{name}": one for name, one in network_tensors(self.network).items()}
        tensors |= {f"optimizer/{name}": one for name, one in optimizer_tensors(self.optimizer.optimizer).items()}
        tensors["random/torch"] = torch.get_rng_state()
        return State(Position(self.number, steps), tensors)

    def fill(self, state: State, path: Path) -> None:
        """Take up a state.

        Raises:
            WeightsError: it is not of this stage of this recipe.
        """
        try:
            fill_network(self.network, state.part("average/"))
            self.average = Average(self.network, self.stage.average)
            fill_network(self.network, state.part("network/"))
            fill_optimizer(self.optimizer.optimizer, state.part("optimizer/"))
            torch.set_rng_state(state.tensors["random/torch"])
        except (RuntimeError, LookupError, ValueError) as error:
            raise unfit(path, error) from error

    def start_from(self, path: Path) -> None:
        """Start from weights: what the network has in common with theirs is filled, the rest stays as it is.

        Raises:
            WeightsError: they are missing or damaged, or of another preset, or the recipe goes on from what they lack.
        """
        stored = checkpoint.load(path)
        refuse_start(stored.card, self.recipe, self.number, path)
        own = network_tensors(self.network)
        fitting = {name: one for name, one in stored.state.items() if name in own and own[name].shape == one.shape}
        fill_network(self.network, own | fitting)
        self.average = Average(self.network, self.stage.average)

    def weights(self) -> dict[str, Tensor]:
        """Give the averaged weights."""
        with self.average.in_place():
            return {name: one.cpu() for name, one in network_tensors(self.network).items()}

    def _answer_and_losses(self, image: Tensor, labels: PartialLabels, step: int) -> tuple[Any, dict[str, Tensor]]:
        if step < self.schedule.branch_first:
            output = self.module(image, self._labelled_organs(labels), branch_alone=True)
            return output, losses_within_organs(output, labels, self.recipe.loss)
        output = self.module(image, *self._told_organs(labels, step))
        return output, self._losses(output, labels)

    def _losses(self, output: Any, labels: PartialLabels) -> dict[str, Tensor]:
        weights = self.recipe.loss
        if isinstance(self.network, Baseline):
            return self.network.losses(
                output,
                labels,
                organ_readings=readings(weights, weights.organ_share),
                tumor_readings=readings(weights, weights.tumor_share),
                tumor_weight=weights.tumor,
            )
        return losses(output, labels, weights)

    def _told_organs(self, labels: PartialLabels, step: int) -> tuple[dict[tuple[int, int], Tensor], ...]:
        """Give the masks of organs that the deviation branch goes by in this step; nothing where it finds its own."""
        branch = isinstance(self.network, DSM) and self.network.deviation_branch is not None
        if not branch or not self.stage.told_organs:
            return ()
        random = stream(self.recipe.seed, "told", step, self.fabric.global_rank)
        chosen = torch.from_numpy(random.random(len(labels.masks)) < self.stage.told_organs)
        return (self._labelled_organs(labels, chosen),)

    def _labelled_organs(self, labels: PartialLabels, chosen: Tensor | None = None) -> dict[tuple[int, int], Tensor]:
        """Give the masks of labelled organs by item and organ, of all items or of those that are ``chosen``."""
        known = labels.annotated[:, : PRESETS[self.recipe.preset].organs].cpu()
        if chosen is not None:
            known = known & chosen[:, None]
        return {(item, organ): labels.masks[item, organ] for item, organ in known.nonzero().tolist()}

    def _set_mode(self, *, cooling: bool) -> None:
        self.module.train()
        for name, part in self.network.named_children():
            if name in self.recipe.frozen(self.number):
                part.eval()
        if cooling:
            for layer in self.network.modules():
                if isinstance(layer, nn.BatchNorm3d):
                    layer.eval()

    def _summed(self, values: dict[str, Number]) -> dict[str, Number]:
        """Sum values over processes."""
        if self.fabric.world_size == 1:
            return values
        own = torch.tensor(list(values.values()), device=self.fabric.device)
        return dict(zip(values, torch.as_tensor(self.fabric.all_reduce(own, reduce_op="sum")).tolist(), strict=True))

    def _tell_not_finite(self, batch: Batch, step: int, terms: dict[str, Tensor], *, here: bool) -> None:
        with self.fabric.autocast():
            layer = first_layer_without_numbers(self.network, batch.image)
        values = {name: float(term.detach()) for name, term in terms.items()}
        if not here:
            raise InputError("the loss of another process is no number", mend="Its own line tells where.")
        raise NotFiniteError(batch, step + 1, layer, values, self.fabric.global_rank)


def refuse_start(card: Card, recipe: Recipe, number: Literal[1, 2], where: Path) -> None:
    """Refuse weights that a stage cannot start from.

    A baseline, and Stage 1, start from whatever they have in common with others, such as the backbone. Stage 2 goes on
    from DSM's organ queries: of a Stage 1 as in its own row of Table 5, or of a Stage 2 of that row. sml measures the
    logits of swin_unetr.

    Raises:
        WeightsError: they are of another preset, or not such weights.
    """
    what = mend = ""
    if card.preset != recipe.preset:
        what = f"is of preset {card.preset}, the recipe of {recipe.preset}"
        mend = "Choose weights of the same preset, or change the recipe's."
    elif recipe.method == "sml" and card.method not in ("swin_unetr", "sml"):
        what, mend = f"is of method {card.method}; sml measures swin_unetr", "Train method swin_unetr, and name that."
    elif recipe.method == "dsm" and number == 2 and not _goes_on(card, recipe):
        row = f"{card.method} ({card.ablation}, stage {card.stage})"
        what = f"is of {row}, whose organ queries are not those of the recipe's Stage 2 ({recipe.ablation})"
        mend = "Choose weights of a Stage 1 that fits, or give the recipe a stage_1."
    elif recipe.method == "dsm" and number == 2 and (other := _read_otherwise(card, recipe)):
        told = ", ".join(f"{name} {getattr(card.readings, name)}" for name in other)
        what = f"was trained with other readings than the recipe's ({told})"
        sets = " ".join(f"--set readings.{name}={_plain(getattr(card.readings, name))}" for name in other)
        mend = f"Train with {sets}, or give the recipe a stage_1."
    if what:
        raise WeightsError(what, where=where, mend=mend)


def _goes_on(card: Card, recipe: Recipe) -> bool:
    if card.method != "dsm":
        return False
    if card.stage == 2:
        return card.ablation == recipe.ablation
    return ablated(PRESETS[card.preset], card.ablation).state_space == recipe.network.state_space


def _read_otherwise(card: Card, recipe: Recipe) -> list[str]:
    """Name the readings that decide which parameters organ queries have, where weights and recipe differ in them."""
    names = ("half_masks", "background_queries", "response")
    return [name for name in names if getattr(card.readings, name) != getattr(recipe.readings, name)]


def _plain(value: object) -> str:
    """Write a setting as YAML has it."""
    return str(value).lower()


def _build(recipe: Recipe, number: Literal[1, 2], data: Data) -> DSM | Baseline:
    config = replace(recipe.network, stage=number)
    text = text_embeddings(recipe) if recipe.reads_text and number == 2 else None
    network: DSM | Baseline
    if recipe.method == "dsm":
        network = build(config, text)
    else:
        trained = torch.tensor([one.id in data.annotated for one in CLASSES])
        network = baselines.build(recipe.method, config, text, trained)
    if recipe.backbone is not None and number == recipe.stages[0][0]:
        checkpoint.fill_backbone(network.backbone, recipe.backbone)
    if recipe.hardware.strategy == "fsdp":  # takes contiguous parameters alone
        return network
    return convert_conv3d_weight_memory_format(network, torch.channels_last_3d)


def _recompute_activations(network: nn.Module) -> None:
    """Let blocks compute their activations again when gradients need them, instead of keeping them."""
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing

    # Not conv_unet's blocks: batch normalization would gather its statistics twice.
    inside_swin = [layer for part in network.modules() if isinstance(part, SwinUNETR) for layer in part.children()]
    apply_activation_checkpointing(
        network, check_fn=lambda layer: isinstance(layer, QueryBlock) or any(layer is one for one in inside_swin)
    )

"""What went wrong in a step: where numbers ended, kept so that it can be looked at."""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dsmseg.errors import InputError
from dsmseg.files import write_atomically, write_json
from dsmseg.training.patches import Batch


class NotFiniteError(ArithmeticError):
    """A loss that is no number: of which batch and step, and the first layer whose answer was none."""

    def __init__(self, batch: Batch, step: int, layer: str, terms: dict[str, float], process: int = 0) -> None:
        self.batch, self.at_step, self.layer, self.terms, self.process = batch, step, layer, terms, process
        super().__init__(f"step {step}")

    def kept_in(self, directory: Path) -> InputError:
        """Write the batch to ``directory``; gives the line that tells of it."""
        place = f"step_{self.at_step}" + (f"_process_{self.process}" if self.process else "")
        path = directory / f"not_finite_{place}.safetensors"
        labels = self.batch.labels
        tensors = {
            "image": self.batch.image.cpu().contiguous(),
            "masks": labels.masks.cpu().to(torch.uint8).contiguous(),
            "annotated": labels.annotated.cpu().to(torch.uint8).contiguous(),
        }
        write_atomically(path, lambda temporary: save_file(tensors, temporary))
        terms = {name: str(value) for name, value in self.terms.items()}
        record = {"step": self.at_step, "cases": list(self.batch.names), "layer": self.layer, "terms": terms}
        write_json(path.with_suffix(".json"), record)
        cases = ", ".join(dict.fromkeys(self.batch.names))
        return InputError(
            f"the loss of step {self.at_step} is no number: layer {self.layer}, cases {cases}, terms {terms}",
            where=path,
            mend="Look at this batch; a lower learning_rate or precision fp32 may help.",
        )


@torch.no_grad()
def first_layer_without_numbers(network: nn.Module, image: Tensor) -> str:
    """Give the name of the first layer that answers numbers with none; "the loss" if all answer with numbers."""
    found: list[str] = []

    def look(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(_: nn.Module, __: object, answer: object) -> None:
            if not found and any(not bool(one.isfinite().all()) for one in _tensors(answer)):
                found.append(name)

        return hook

    if not bool(image.isfinite().all()):
        return "none (the image itself holds no numbers)"
    hooks = [part.register_forward_hook(look(name)) for name, part in network.named_modules() if name]
    try:
        network(image)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else "none (the loss alone)"


def _tensors(answer: object) -> list[Tensor]:
    if isinstance(answer, Tensor):
        return [answer] if answer.is_floating_point() else []
    if isinstance(answer, list | tuple):
        return [one for part in answer for one in _tensors(part)]
    return []

"""Write docs/model.md from the sources: shapes, equations and their tests, parameters and GFLOP."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from string import Template
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dsmseg.model import DSM, PRESETS, TABLE_5, DSMConfig, DSMOutput, build
from dsmseg.model.deviation_branch import BESIDE
from dsmseg.model.features import PixelFeatures
from dsmseg.model.kernels import plain
from dsmseg.model.semantic_diffusion import SemanticDiffusion
from dsmseg.model.state_space import SelectiveStateSpace

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "model.md"
WINDOW = (96, 96, 96)
EVERY_TEST = "every test"
EQUATIONS = {
    3: "the transition of zero-order hold",
    4: "the input factor of zero-order hold",
    5: "the recurrence",
    6: "the readout",
    8: "k-means cross-attention",
    9: "the query response",
    10: "the cluster centers",
    11: "Dice loss",
    12: "cross-entropy loss",
    13: "their sum",
    14: "the anomaly score",
    15: "the mask prompt",
    16: "semantic diffusion",
    17: "one step of it",
    18: "feature fusion",
    19: "masked cross-attention",
    20: "text alignment",
}
PARTS = {
    "backbone": ("backbone",),
    "organ decoder": ("organ_decoder",),
    "organ heads": ("organ_head", "presence_head"),
    "deviation branch": ("deviation_branch",),
    "tumor decoder": ("tumor_decoder",),
    "tumor head and classes": ("tumor_head", "text_alignment", "query_classification"),
}


@dataclass(frozen=True, slots=True)
class Measure:
    """Parameters and operations of each child module of a network; ``scan`` and ``diffusion`` are among the latter."""

    parameters: dict[str, int]
    operations: dict[str, int]
    scan: int
    diffusion: int
    output: DSMOutput
    features: PixelFeatures


def measure(config: DSMConfig) -> Measure:
    """Run the network of ``config`` on tensors without memory and count."""
    with torch.device("meta"):
        network = build(config, torch.empty(config.organs + config.tumors, config.text_width)).requires_grad_(False)
        image = torch.empty(1, config.input_channels, *WINDOW)
    kept: dict[str, PixelFeatures] = {}
    network.backbone.register_forward_hook(lambda _module, _given, result: kept.update(features=result))
    scan, diffusion = _stand_in(network)
    # Tensors without memory have no autocast.
    no_autocast = patch("torch.autocast", lambda *_given, **_named: nullcontext())
    # Centers are medians: no products to count, and no values to take them of.
    no_centers = patch("dsmseg.model.deviation_branch.center_deviations", _no_centers)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), plain(), no_autocast, no_centers:
        output: DSMOutput = network(image)
    counted = {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    operations = {name: counted.get(f"DSM.{name}", 0) for name, _ in network.named_children()}
    operations["organ_decoder"] += sum(scan)
    if "deviation_branch" in operations:  # Stage 2 asks for the organs' masks once more, for the branch
        again = operations["organ_head"] // 2
        operations["organ_head"] -= again
        operations["deviation_branch"] += again
    if "tumor_decoder" in operations:
        operations["tumor_decoder"] += sum(diffusion)
    parameters = {name: sum(value.numel() for value in part.parameters()) for name, part in network.named_children()}
    return Measure(parameters, operations, sum(scan), sum(diffusion), output, kept["features"])


def _no_centers(image: Tensor, _organ_logits: Tensor) -> Tensor:
    return image.new_empty(len(image), image.shape[1] + BESIDE, *image.shape[2:])


def _stand_in(network: DSM) -> tuple[list[int], list[int]]:
    """Let formulas stand for the scan and the diffusion, so that their figures do not depend on how they run."""
    scan: list[int] = []
    diffusion: list[int] = []

    def scanned(module: SelectiveStateSpace, sequence: Tensor) -> Tensor:
        length, channels = sequence.shape[1:]
        state = module.log_decay.shape[1]
        maps = 2 * length * channels * (channels + 2 * state)
        scan.append(maps + 10 * length * channels * state + 2 * length * channels)
        return sequence

    def diffused(feature: Tensor, _guidance: Tensor) -> Tensor:
        channels, voxels = feature.shape[1], feature[0, 0].numel()
        diffusion.append(voxels * (13 * (7 * channels + 3) + 6 * channels))
        return feature

    for module in network.modules():
        if isinstance(module, SelectiveStateSpace):
            module.forward = scanned.__get__(module)
        elif isinstance(module, SemanticDiffusion):
            module.forward = diffused
    return scan, diffusion


def shape(*sizes: int) -> str:
    """Say ``(768, 3, 3, 3)`` as 768 by 3³."""
    parts = [f"{size:,}" for size in sizes]
    if len(sizes) > 2 and len(set(sizes[-3:])) == 1:
        parts[-3:] = [f"{sizes[-1]}³"]
    return " \N{MULTIPLICATION SIGN} ".join(parts)


def drawing(config: DSMConfig, full: Measure) -> str:
    """Give both stages as a mermaid flow chart with the shapes of ``full``."""
    output, width = full.output, config.query_width

    def of(tensor: Tensor | None) -> str:
        return "" if tensor is None else shape(*tensor.shape[1:])

    pairs = enumerate(zip(full.features.levels, output.responses, strict=True), start=1)
    lines = [(f"F_{i}: {of(F)}", f"R_{i}: {of(R)}", f"A_{i}, M_{i}: {shape(*R.shape[2:])}") for i, (F, R) in pairs]
    levels, responses, scores = ("<br/>".join(column) for column in zip(*lines, strict=True))
    organs, tumors = shape(config.organs, width), shape(config.tumors, width)
    return f"""flowchart TD
    image["image<br/>{shape(config.input_channels, *WINDOW)}"] --> backbone(["Swin UNETR, § 5.3"])
    backbone --> levels["{levels}"]
    backbone --> embedding["F^_4: {of(full.features.embedding)}"]
    subgraph stage_1 ["Stage 1: organ queries"]
        organ_queries["O: {organs}"] --> kmm(["4 kMM blocks<br/>Eq. 8, 9, 10"])
        kmm --> responses["before argmax<br/>{responses}"]
        kmm --> organs["O^: {organs}"]
        organs --> organ_masks["organ masks, O^ F^_4<br/>{of(output.organ_logits)}"]
        organs --> presence["presence<br/>{of(output.presence)}<br/>in Stage 2 of its O^"]
    end
    subgraph stage_2 ["Stage 2: tumor queries"]
        scores["Eq. 14, 15<br/>{scores}"] --> dqr
        tumor_queries["T: {tumors}"] --> dqr(["4 DQR blocks<br/>Eq. 16-19"])
        dqr --> refined["O^: {organs}<br/>T^: {tumors}"]
        refined --> masks["masks, [O^, T^] F^_4<br/>{of(output.organ_logits)} and {of(output.tumor_logits)}"]
        refined --> alignment["p, Eq. 20<br/>{of(output.log_probability)}"]
    end
    levels --> kmm
    levels --> dqr
    responses --> scores
    organs --> dqr
    embedding --> organ_masks
    embedding --> masks"""


def level_table(config: DSMConfig, full: Measure) -> str:
    """Give what the blocks of each level see."""
    rows = []
    for index, (level, response) in enumerate(zip(full.features.levels, full.output.responses, strict=True), start=1):
        channels, voxels = level.shape[1], level[0, 0].numel()
        sizes = [
            shape(*level.shape[1:]),
            shape(config.organs, channels),
            shape(*response.shape[1:2], voxels),
            shape(config.tumors, channels),
            shape(voxels, 2 * channels),
            shape(config.tumors, voxels),
        ]
        rows.append([f"{index}, stride {WINDOW[0] // level.shape[-1]}", *sizes])
    head = ["level", "F_i", "O_i", "O_i F_iᵀ, R_i", "T_i, Q_i", "[F_i, F^_i]", "M_i + Q_i K_iᵀ (a head)"]
    return _table(head, rows)


def row_table(rows: dict[int, Measure]) -> str:
    """Give parameters and GFLOP of each row of Table 5."""
    titles = {"state_space": "kMM", "mask_prompt": "AMVP", "diffusion": "DQR", "text_alignment": "CLIP"}
    lines = []
    for row, one in rows.items():
        marks = ["✓" if TABLE_5[row].get(switch, True) else "" for switch in titles]
        figures = [_millions(sum(one.parameters.values())), _giga(sum(one.operations.values()))]
        queries = sum(one.operations.values()) - one.operations["backbone"]
        lines.append([str(row), *marks, *figures, _giga(queries)])
    return _table(["row", *titles.values(), "million parameters", "GFLOP", "of these, all but the backbone"], lines)


def part_table(presets: dict[str, Measure]) -> str:
    """Give million parameters and GFLOP of each preset's parts."""
    lines = []
    for title, children in [*PARTS.items(), ("Stage 1", sum(list(PARTS.values())[:3], ())), ("Stage 2", None)]:
        line = [f"**{title}**" if title.startswith("Stage") else title]
        for one in presets.values():
            names = one.parameters if children is None else children
            line += [_millions(sum(one.parameters.get(name, 0) for name in names))]
            line += [_giga(sum(one.operations.get(name, 0) for name in names))]
        lines.append(line)
    head = [f"`{preset}`, {unit}" for preset in presets for unit in ("million parameters", "GFLOP")]
    return _table(["", *head], lines)


def equation_table() -> str:
    """Give each equation's functions and tests."""
    code, tests = functions_of_equations(), tests_of_equations()
    rows = [[str(number), what, _links(code[number]), _links(tests[number])] for number, what in EQUATIONS.items()]
    return _table(["Eq.", "", "function or class", "tests"], rows)


def functions_of_equations() -> dict[int, list[tuple[Path, str]]]:
    """Find public functions and classes of ``model/`` whose docstring's first paragraph names an equation."""
    found: dict[int, list[tuple[Path, str]]] = defaultdict(list)
    for path in sorted((ROOT / "src" / "dsmseg" / "model").rglob("*.py")):
        for name, node in _definitions(ast.parse(path.read_text(encoding="utf-8"))):
            for number in _numbers((ast.get_docstring(node) or "").split("\n\n")[0]):
                if (path, name) not in found[number]:
                    found[number].append((path, name))
    return found


def tests_of_equations() -> dict[int, list[tuple[Path, str]]]:
    """Find tests that carry ``pytest.mark.equation``, and files whose ``pytestmark`` gives it to every test."""
    found: dict[int, list[tuple[Path, str]]] = defaultdict(list)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            marks, name = getattr(node, "decorator_list", []), getattr(node, "name", EVERY_TEST)
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
                marks = [node.value]
            for mark in marks:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.equation":
                    for number in mark.args:
                        found[ast.literal_eval(number)].append((path, name))
    return found


def _definitions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef | ast.ClassDef]]:
    """Give top-level functions, classes and methods; what a class does when it is called goes by the class's name."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name, node
            for inner in node.body if isinstance(node, ast.ClassDef) else []:
                if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
                    yield (node.name if inner.name == "forward" else f"{node.name}.{inner.name}"), inner


def _numbers(text: str) -> Iterator[int]:
    """Read the numbers of "Eq. 3 and Eq. 4", "Eq. 9, 10" and "Eq. 3-6"."""
    for listed in re.findall(r"Eq\.\s(\d+(?:-\d+)?(?:,\s\d+(?:-\d+)?)*)", text):
        for first, last in re.findall(r"(\d+)(?:-(\d+))?", listed):
            yield from range(int(first), int(last or first) + 1)


def _links(places: list[tuple[Path, str]]) -> str:
    by_file: dict[Path, list[str]] = defaultdict(list)
    for path, name in places:
        by_file[path].append(name if name == EVERY_TEST else f"`{name}`")
    return "<br/>".join(
        f"[{path.name}](../{path.relative_to(ROOT).as_posix()}): {', '.join(names)}" for path, names in by_file.items()
    )


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f}"


def _giga(count: int) -> str:
    return f"{count / 1e9:.1f}" if count > 1e10 else f"{count / 1e9:.2f}"


def page() -> str:
    """Give the whole page."""
    rows = {row: measure(replace(PRESETS["paper"], **switches)) for row, switches in TABLE_5.items()}
    presets = {name: rows[6] if name == "paper" else measure(config) for name, config in PRESETS.items()}
    config, full = PRESETS["paper"], rows[6]
    template = Template((ROOT / "docs" / "model.template.md").read_text(encoding="utf-8"))
    return template.substitute(
        window=f"{WINDOW[0]}³",
        drawing=drawing(config, full),
        levels=level_table(config, full),
        equations=equation_table(),
        rows=row_table(rows),
        queries=config.organs + config.tumors,
        classes=config.organs + config.tumors,
        parts=part_table(presets),
        total=_giga(sum(full.operations.values())),
        scan=_giga(full.scan),
        diffusion=_giga(full.diffusion),
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

"""Help answers without the heavy libraries."""

from pathlib import Path

import pytest
from cli_helpers import run_process

from dsmseg import cli


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["predict", "--help"], ["train", "--help"], ["weights", "--help"], ["evaluate", "--help"]],
)
def test_help_imports_no_heavy_library(arguments: list[str]) -> None:
    script = f"import sys; from dsmseg import cli; cli.run({arguments!r}); print(*sys.modules, file=sys.stderr)"
    loaded = set(run_process("-c", script).stderr.split())
    assert "typer" in loaded
    assert not loaded & {"torch", "numpy", "scipy", "nibabel", "SimpleITK", "safetensors", "matplotlib"}


def test_predict_imports_neither_monai_nor_lightning_nor_matplotlib(scan: Path, weights: Path, tmp_path: Path) -> None:
    arguments = ["predict", str(scan), "-o", str(tmp_path / "out"), "--weights", str(weights)]
    script = f"import sys; from dsmseg import cli; code = cli.run({arguments!r}); print(*sys.modules); sys.exit(code)"
    done = run_process("-c", script)
    assert done.returncode == 0, done.stderr
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "torch" in loaded
    assert not loaded & {"monai", "lightning", "lightning_fabric", "matplotlib", "transformers"}


def test_no_argument_at_all_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([]) == 0
    assert "predict" in capsys.readouterr().out


def test_the_module_is_the_command() -> None:
    done = run_process("-m", "dsmseg", "predict", "--help")
    assert done.returncode == 0
    assert "Usage: dsmseg predict" in done.stdout

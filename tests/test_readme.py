"""What the README prints works as printed, on the demonstration's scan."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import SimpleITK
import torch

from dsmseg import cli
from dsmseg.model.swin_unetr import SwinUNETR
from dsmseg.report.demo import shipped

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^dsmseg .*$", README, flags=re.MULTILINE)
SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Give a folder as the README's first commands leave it; of the scan its middle, which takes two windows."""
    folder = tmp_path_factory.mktemp("readme")
    scan = SimpleITK.ReadImage(shipped("CTChest4.nrrd"))
    SimpleITK.WriteImage(scan[32:96, 32:96], folder / "scan.nrrd", useCompression=True)
    torch.save(SwinUNETR(input_channels=1, feature_size=12).state_dict(), folder / "swin_unetr.pt")
    (folder / "cases").mkdir()
    shutil.copy(folder / "scan.nrrd", folder / "cases")
    return folder


def test_the_readme_has_commands_and_snippets() -> None:
    assert len(COMMANDS) >= 8
    assert len(SNIPPETS) >= 2


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_runs(command, folder, monkeypatch, capsys) -> None:
    monkeypatch.chdir(folder)
    assert cli.run(shlex.split(command, comments=True)[1:]) == 0, capsys.readouterr().err


def test_the_python_snippets_run_one_after_another(folder, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    names: dict[str, object] = {}
    for snippet in SNIPPETS:
        exec(compile(snippet, "README.md", "exec"), names)  # noqa: S102
    assert (folder / "overview.png").is_file()
    assert (folder / "results" / "from_python" / "organs.nii.gz").is_file()

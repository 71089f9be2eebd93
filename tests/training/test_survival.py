"""What happens to long runs: killed, interrupted, numbers that end, a full disk, a dead process, two processes."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from multiprocessing import active_children

import pytest
import torch
from safetensors.torch import load_file

from dsmseg import checkpoint
from dsmseg.errors import InputError, OutputError
from dsmseg.training import learner
from dsmseg.training.learner import Learner
from dsmseg.training.loop import train
from dsmseg.training.reading import load_recipe

LONGER = ["stage_1.length=6", "stage_2.length=6", "reporting.state_every=1"]


def command(recipe, run, *more: str, settings=LONGER) -> list[str]:
    changes = [part for setting in settings for part in ("--set", setting)]
    return [sys.executable, "-m", "dsmseg", "train", str(recipe), "-o", str(run), *changes, *more]


def start(recipe, run, *more: str) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command(recipe, run, *more), env=environment, stderr=subprocess.DEVNULL)  # noqa: S603


def wait_for_steps(run, count: int, process: subprocess.Popen) -> None:
    log = run / "log.jsonl"
    while process.poll() is None and (not log.exists() or len(log.read_text().splitlines()) < count):
        time.sleep(0.02)


def assert_same_file(first, second) -> None:
    one, other = load_file(first), load_file(second)
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_parameters(stored_recipe, tmp_path) -> None:
    assert start(stored_recipe, tmp_path / "whole").wait() == 0
    chance = random.Random(4)
    for steps in (chance.randint(1, 4), chance.randint(7, 11)):
        process = start(stored_recipe, tmp_path / "killed", "--resume")
        wait_for_steps(tmp_path / "killed", steps, process)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert start(stored_recipe, tmp_path / "killed", "--resume").wait() == 0
    for name in ("stored_stage_1", "stored", "state"):
        assert_same_file(tmp_path / "whole" / f"{name}.safetensors", tmp_path / "killed" / f"{name}.safetensors")


@pytest.mark.parametrize(
    "number", [pytest.param(one, marks=pytest.mark.slow) for one in (signal.SIGINT, signal.SIGTERM)]
)
def test_ctrl_c_saves_and_says_how_to_go_on(stored_recipe, tmp_path, number) -> None:
    settings = [*LONGER, "reporting.state_every=1000", "stage_1.length=100000"]
    process = subprocess.Popen(  # noqa: S603
        command(stored_recipe, tmp_path / "run", settings=settings), stderr=subprocess.PIPE, text=True
    )
    wait_for_steps(tmp_path / "run", 2, process)
    process.send_signal(number)
    told = process.communicate()[1].splitlines()[-1]
    assert process.returncode == 130
    assert "all is saved" in told
    assert "--resume" in told
    steps = len((tmp_path / "run" / "log.jsonl").read_text().splitlines())
    assert f"after step {steps} of 100000" in told


def test_numbers_that_end_are_told_with_batch_case_and_layer(stored_recipe, tmp_path) -> None:
    wild = load_recipe(stored_recipe, [*LONGER, "stage_1.learning_rate=1e30", "stage_1.clip_norm=1e30"])
    with pytest.raises(InputError, match=r"the loss of step \d is no number: layer [\w.]+, cases lits/\d") as error:
        train(wild, tmp_path / "run")
    kept = load_file(error.value.where)
    assert kept["image"].shape == (2, 2, 32, 32, 32)
    record = json.loads(error.value.where.with_suffix(".json").read_text())
    assert record["cases"]
    assert (tmp_path / "run" / "state.safetensors").exists()


def test_a_full_disk_is_one_line_and_the_last_state_stays_whole(stored_recipe, tmp_path, monkeypatch) -> None:
    train(load_recipe(stored_recipe, ["stage_1.length=2", "stage_2=null"]), tmp_path / "run")
    before = (tmp_path / "run" / "state.safetensors").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))  # a file may have 1 MB
    try:
        with pytest.raises(OutputError, match="cannot be written"):
            train(load_recipe(stored_recipe, ["stage_1.length=4", "stage_2=null"]), tmp_path / "run", resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "run" / "state.safetensors").read_bytes() == before
    assert not list((tmp_path / "run").glob(".*"))


def test_a_loader_process_that_dies_is_one_line_and_no_step_is_lost(stored_recipe, tmp_path, monkeypatch) -> None:
    true_step = Learner.step

    def killing(self, batches, now):
        if now == 1:
            for child in active_children():
                child.kill()
        return true_step(self, batches, now)

    recipe = load_recipe(stored_recipe, ["hardware.workers=1", "stage_1.length=40", "reporting.state_every=1000"])
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", killing)
        with pytest.raises(InputError, match=r"a process that drew patches died.*--resume"):
            train(recipe, tmp_path / "run")
    steps = len((tmp_path / "run" / "log.jsonl").read_text().splitlines())
    assert steps >= 2
    shorter = load_recipe(stored_recipe, [f"stage_1.length={steps}", "stage_2.length=1", "hardware.workers=0"])
    train(shorter, tmp_path / "run", resume=True)
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == steps + 1


def train_in_two_processes(recipe, run, settings) -> subprocess.CompletedProcess:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "dsmseg"]
    two = [*settings, "hardware.devices=2", "hardware.accelerator=cpu"]
    call = [*launcher, *command(recipe, run, settings=two)[3:]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(  # noqa: S603
        call, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


# In the cool-down running statistics are used, which two processes gather from one half of the batch each.
ALIKE = ["patch.size=[64,32,32]", "stage_1.cool_down=0", "stage_2.cool_down=0"]


@pytest.fixture
def one_thread():
    """Sum in the order in which each of two processes does: they have one thread each."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_two_processes_follow_the_curve_of_one_with_the_same_batch(stored_recipe, tmp_path) -> None:
    train(load_recipe(stored_recipe, [*ALIKE, "hardware.accumulate=2"]), tmp_path / "one")
    done = train_in_two_processes(stored_recipe, tmp_path / "two", ALIKE)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("Weights and their card") == 1
    alone, together = (
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    assert len(alone) == len(together) == 6
    for first, second in zip(alone, together, strict=True):
        for term in ("mask", "response", "presence", *(["tumor_mask"] if first["stage"] == 2 else [])):
            assert second[term] == pytest.approx(first[term], rel=2e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_have_the_gradients_of_one(held_out, tmp_path, strategy) -> None:
    """After one step, Adam's first moments are the gradients. One process alone looks at held-out cases."""
    single = [*ALIKE, "stage_1.length=1", "stage_2=null"]
    train(load_recipe(held_out, [*single, "hardware.accumulate=2"]), tmp_path / "one")
    # Pictures and validation need all processes where parameters are spread over them.
    more = ["reporting.pictures_every=1", "validation={every: 1, cases: 1}", f"hardware.strategy={strategy}"]
    done = train_in_two_processes(held_out, tmp_path / "two", [*single, *more])
    assert done.returncode == 0, done.stderr[-2000:]
    log = (tmp_path / "two" / "log.jsonl").read_text()
    assert log.count("validation score") == 1
    assert (tmp_path / "two" / "stored_best.safetensors").exists()
    assert (tmp_path / "two" / "pictures" / "stage_1_step_1.png").exists()
    one, two = (load_file(tmp_path / name / "state.safetensors") for name in ("one", "two"))
    moments = [name for name in one if name.endswith("exp_avg")]
    assert len(moments) > 100
    whole = torch.cat([one[name].flatten() for name in moments])
    parts = torch.cat([two[name].flatten() for name in moments])
    assert (parts - whole).norm() < 0.01 * whole.norm()
    assert checkpoint.verify(tmp_path / "two" / "stored.safetensors").stage == 1


@pytest.mark.slow
def test_what_one_process_cannot_go_on_with_stops_both_and_is_saved(stored_recipe, tmp_path) -> None:
    (tmp_path / "store" / "lits" / "2" / "image.b2nd").write_bytes(b"nothing")
    many = [*ALIKE, "stage_1.length=60", "stage_2=null", "reporting.state_every=1000"]
    done = train_in_two_processes(stored_recipe, tmp_path / "run", many)
    assert done.returncode != 0
    assert "image.b2nd" in done.stderr
    assert "another process of this run had to stop" in done.stderr
    steps = len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) if (tmp_path / "run").exists() else 0
    assert (tmp_path / "run" / "state.safetensors").exists() == (steps > 0)


def test_another_number_of_processes_than_the_recipe_says_is_refused(stored_recipe, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(InputError, match="says 1 x 1 processes, and 4 were started"):
        train(load_recipe(stored_recipe), tmp_path / "run")


def test_a_gradient_that_is_no_number_does_not_reach_the_parameters(stored_recipe, tmp_path, monkeypatch) -> None:
    true_losses = learner.losses
    seen = []

    def losses(output, labels, weights):
        terms = true_losses(output, labels, weights)
        if len(seen) == 1:  # the second step
            terms["mask"].register_hook(lambda gradient: gradient * float("nan"))
        seen.append(1)
        return terms

    monkeypatch.setattr(learner, "losses", losses)
    with pytest.raises(InputError, match="the loss of step 2 is no number: layer of a gradient"):
        train(load_recipe(stored_recipe, ["reporting.state_every=1"]), tmp_path / "run")
    kept = load_file(tmp_path / "run" / "state.safetensors")
    assert all(bool(one.isfinite().all()) for one in kept.values() if one.is_floating_point())

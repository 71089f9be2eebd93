"""What the process may use: a container may hold it below what the machine has."""

import os

import pytest

from dsmseg import resources

resource = pytest.importorskip("resource")


def test_at_least_one_core() -> None:
    assert resources.cores() >= 1


@pytest.mark.parametrize(
    ("texts", "limit"),
    [
        ((None, None), None),
        (("max\n", None), None),
        (("9223372036854771712", "?"), None),
        (("1000000\n", None), 1000000),
        ((None, "1000000"), 1000000),
        (("2000000", "1000000"), 1000000),
    ],
)
def test_a_container_s_limit_is_kept_and_where_there_is_none_the_machine_s(tmp_path, monkeypatch, texts, limit) -> None:
    monkeypatch.setattr(resources, "_LIMIT_FILES", ())
    machine = resources.memory()
    paths = tuple(tmp_path / str(number) for number in range(len(texts)))
    for path, text in zip(paths, texts, strict=True):
        if text is not None:
            path.write_text(text)
    monkeypatch.setattr(resources, "_LIMIT_FILES", paths)
    assert resources.memory() == (machine if limit is None else limit)


def test_what_can_be_had_is_no_more_than_the_machine_has_and_limits_allow(tmp_path, monkeypatch) -> None:
    here = resources.available_memory()
    assert here is None or 0 < here <= resources.memory()
    monkeypatch.setattr(resources, "memory", lambda: 10 << 30)
    page = os.sysconf("SC_PAGE_SIZE")
    (tmp_path / "own").write_text(f"{(3 << 30) // page} {(1 << 30) // page} 0")
    (tmp_path / "free").write_text(f"MemTotal: 1 kB\nMemAvailable: {2 << 20} kB\n")
    (tmp_path / "cgroup").write_text("0::/outer/inner\n")
    monkeypatch.setattr(resources, "_OWN_FILE", tmp_path / "own")
    monkeypatch.setattr(resources, "_FREE_FILE", tmp_path / "free")
    monkeypatch.setattr(resources, "_CGROUP_FILE", tmp_path / "cgroup")
    monkeypatch.setattr(resources, "_CGROUP_ROOT", tmp_path / "groups")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert resources.available_memory() == 3 << 30  # free, and held already
    monkeypatch.setattr(resource, "getrlimit", lambda _: (4 << 30, 4 << 30))
    assert resources.available_memory() == (2 << 30) - resources._MAPPED_BY_THREADS
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    # Of 4 GB of the outer container 3 are in use, 1 of them a cache that can go, and 1 by this process.
    inner = tmp_path / "groups" / "outer" / "inner"
    inner.mkdir(parents=True)
    (inner / "memory.max").write_text("max")
    figures = {"max": 4 << 30, "current": 3 << 30}
    for name, value in figures.items():
        (inner.parent / f"memory.{name}").write_text(str(value))
    (inner.parent / "memory.stat").write_text(f"anon 5\ninactive_file {1 << 30}\n")
    assert resources.available_memory() == 3 << 30
    (inner.parent / "memory.max").write_text(str(3 << 30))
    assert resources.available_memory() == 2 << 30
    monkeypatch.setattr(resources, "_FREE_FILE", tmp_path / "none")
    assert resources.available_memory() is None

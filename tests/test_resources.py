"""What the process may use: a container may hold it below what the machine has."""

import pytest

from dsmseg import resources


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

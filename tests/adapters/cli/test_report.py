from pathlib import Path

import pytest

from tests.adapters.cli.calls import camcore, done, failed


def test_a_report_is_written(
    spots: Path, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "why.html"
    assert "why.html" in done(
        camcore("report", spots, photos[0], "--expected", "heart", "-o", page)
    )
    assert "heart" in page.read_text()
    monkeypatch.chdir(tmp_path)
    done(camcore("report", spots, photos[2], "--expected", "3"))
    assert (tmp_path / "other.html").exists()


def test_wrong_input_leaves_no_page(spots: Path, photos: list[Path], tmp_path: Path) -> None:
    page = tmp_path / "why.html"
    wanted = ("--expected", "haert", "-o", page)
    assert "nearest: heart" in failed(camcore("report", spots, photos[0], *wanted))
    assert "does not exist" in failed(camcore("report", spots, tmp_path / "no.png", *wanted))
    nowhere = ("--expected", "heart", "-o", tmp_path / "no" / "why.html")
    assert "make it first" in failed(camcore("report", spots, photos[0], *nowhere))
    assert not page.exists()

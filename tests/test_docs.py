"""The examples of the documentation run as they stand."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import fastnorm

ROOT = Path(__file__).parents[1]
MODULES = ["fastnorm"] + [
    f"fastnorm.{module.name}"
    for module in pkgutil.iter_modules(fastnorm.__path__)
    if module.name not in ("__main__", "_core")
]


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("name", fastnorm.__all__)
def test_every_public_name_has_an_example(name: str) -> None:
    if name == "__version__":
        return
    assert ">>> " in getattr(fastnorm, name).__doc__ or name == "show_config"


def test_readme() -> None:
    result = doctest.testfile(str(ROOT / "README.md"), module_relative=False)
    assert result.attempted > 10
    assert result.failed == 0


def test_readme_commands_are_those_of_ci() -> None:
    """.ci/run takes them from the README: one ends in the demonstration, one in the tests."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    commands = [block.strip() for block in blocks]
    assert [c.splitlines() for c in commands] == [[c] for c in commands]
    assert commands[0].endswith("python -m fastnorm")
    assert commands[1].endswith("python -m pytest")


def test_links_lead_to_files() -> None:
    pages = [page for folder in (".", "docs", "bench") for page in (ROOT / folder).glob("*.md")]
    pages += [*(ROOT / "bench").glob("*/*.md"), *(ROOT / "src").rglob("*.md")]
    links = [
        (page, target)
        for page in pages
        for target in re.findall(r"\]\(([^):#]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
    ]
    assert len(links) > 20
    assert [link for link in links if not (link[0].parent / link[1]).exists()] == []


def test_changelog_has_this_version_or_is_unreleased() -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert "## [Unreleased]" in text or f"## [{fastnorm.__version__}]" in text

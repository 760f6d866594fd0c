"""Every command that the README and the guides show has a verb, arguments and options that there are."""

import re
import shlex
from pathlib import Path

import pytest

from equipoise.cli.main import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def _commands():
    for page in PAGES:
        for block in re.findall(r"```console\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith("equipoise "):
                    yield pytest.param(line, id=f"{page.stem}: {line[:60]}")


COMMANDS = list(_commands())


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_guides_can_be_given(line):
    tokens = ["--k" if token == "-k" else token for token in shlex.split(line, comments=True)[1:]]
    app.parse_args(tokens, exit_on_error=False, print_error=False)


def test_every_verb_is_shown_in_the_readme():
    shown = {line.values[0].split()[1] for line in COMMANDS if line.id.startswith("README")}
    listed = {name for name in app if not name.startswith("-")}
    assert {"fuse", "match", "tune-encoder", "audit", "curate", "debias", "segment"} <= shown
    assert listed - shown <= {"datasets", "bench"}, listed - shown

"""The maps keep up: the table of CONTRIBUTING.md, the package's own account of stages and rooms, tests' names."""

import itertools
import re
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path

import annsoftmax_ref

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "annsoftmax_ref"
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
MAP = re.findall(r"^\| (`.*?) \| (.*) \|$", GUIDE.partition("## Map\n")[2].partition("\n## ")[0], re.MULTILINE)


def places():
    """The paths in the table's first column."""
    return [path for where, _ in MAP for path in re.findall(r"`([^`]+)`", where)]


def folders(parent):
    """Names of the folders that the repository has there, those of tools (``.ci``) and what is made left out."""
    made = [line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines() if line[:1] != "#"]
    names = [path.name for path in parent.iterdir() if path.is_dir() and path.name[0] not in "._"]
    return sorted(name for name in names if not any(fnmatch(name, line) for line in made))


def test_every_place_of_the_map_is_there_and_named_once():
    assert len(MAP) > 20
    assert [path for path in places() if not (ROOT / path).exists()] == []
    assert len(places()) == len(set(places()))


def test_every_file_that_the_map_tells_of_is_there():
    files = [name for where, what in MAP for name in re.findall(r"`([\w/]+\.\w+)`", what)]
    assert files and [name for name in files if not any(ROOT.glob(f"*/**/{name}"))] == []


def test_every_room_and_notebook_is_on_the_map():
    rooms = [f"{name}/" for name in folders(ROOT)] + [f"annsoftmax_ref/{name}/" for name in folders(PACKAGE)]
    notebooks = [f"notebooks/{path.name}" for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    assert [path for path in rooms + notebooks if path not in places()] == []


def test_the_package_tells_its_eight_stages_with_their_files_and_its_rooms():
    text = annsoftmax_ref.__doc__
    stages = re.findall(r"^(\d)\. (\w+(?: \w+)?): ", text, re.MULTILINE)
    names = ["groups", "search", "active set", "rows", "objective", "gradients", "row update", "index"]
    assert stages == [(str(k), name) for k, name in enumerate(names, 1)]
    modules = sorted(path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("__"))
    assert [name for name in modules if f"``{name}``" not in text] == []
    assert sorted(re.findall(r"^- ``(\w+)/``: ", text, re.MULTILINE)) == folders(PACKAGE)


def test_every_test_of_a_room_is_named_after_one_of_its_modules_or_after_the_room():
    wrong = []
    for room in folders(PACKAGE):
        modules = [room, *(path.stem for path in (PACKAGE / room).glob("*.py"))]
        for path in (ROOT / "tests" / room).glob("test_*.py"):
            name = path.stem.removeprefix("test_")
            own = name.removeprefix(f"{room}_")  # where the same name stands elsewhere, the room's comes before it
            if not any(f"{given}_".startswith(f"{module}_") for module in modules for given in (name, own)):
                wrong.append(str(path.relative_to(ROOT)))
    assert wrong == []


def test_no_two_classes_have_one_name():
    """In an annotation the site could not tell which of them is meant, and a reader neither."""
    paths = [path for name in ("annsoftmax_ref", "kernels_inline") for path in (ROOT / name).rglob("*.py")]
    found = [re.findall(r"^class ([A-Z]\w*)", path.read_text(encoding="utf-8"), re.MULTILINE) for path in paths]
    counts = Counter(itertools.chain.from_iterable(found))
    assert counts and [name for name, count in counts.items() if count > 1] == []

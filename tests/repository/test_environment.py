"""environment.yml, pyproject.toml and constraints.txt agree, and what can be made of the environment is made.

No conda channel is assumed to be in reach, so the conda part is parsed and compared but not solved. The pip
part is installed for real into a fresh venv, in which the packages of the present one stand for conda's.
"""

import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
CONDA_NAMES = {"torch": "pytorch"}  # where conda-forge's name is not PyPI's
TOOLCHAIN = {"python", "pip", "cxx-compiler", "cuda-nvcc", "cuda-version"}  # what pip cannot bring


@pytest.fixture(scope="module")
def environment():
    return yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def conda_part(environment):
    return [entry for entry in environment["dependencies"] if isinstance(entry, str)]


@pytest.fixture(scope="module")
def pip_part(environment):
    last = environment["dependencies"][-1]
    assert isinstance(last, dict) and list(last) == ["pip"], "the pip part must come last"
    return last["pip"]


def split(spec):
    """'numpy>=2.0,<3' -> ('numpy', '>=2.0,<3')"""
    return re.fullmatch(r"([a-z0-9_-]+)\s*(.*)", spec).groups()


def lower_bound(specifier):
    found = re.search(r">=\s*([\d.]+)", specifier)
    return Version(found.group(1)) if found else None


def test_channels_are_conda_forge_alone(environment):
    assert environment["channels"] == ["conda-forge", "nodefaults"]


def test_conda_part_has_what_the_package_and_its_notebooks_need(conda_part):
    conda = dict(map(split, conda_part))
    wanted = [Requirement(line) for line in PROJECT["dependencies"] + EXTRAS["notebooks"]]
    for requirement in wanted:
        name = CONDA_NAMES.get(requirement.name, requirement.name)
        assert name in conda, f"environment.yml lacks {name}"
        ours = lower_bound(str(requirement.specifier))
        assert lower_bound(conda[name]) >= ours, f"{name} in environment.yml may be older than {ours}"
    extra = set(conda) - TOOLCHAIN - {CONDA_NAMES.get(r.name, r.name) for r in wanted}
    assert not extra, f"environment.yml names what pyproject.toml does not: {extra}"
    assert lower_bound(conda["python"]) == lower_bound(PROJECT["requires-python"])


def test_pip_part_is_nbval_and_the_package(pip_part):
    nbval = next(line for line in EXTRAS["dev"] if line.startswith("nbval"))
    assert pip_part == [nbval, "-e ."]


def test_every_conda_specification_is_one(conda_part):
    rattler = pytest.importorskip("rattler", reason="py-rattler is not installed")
    for spec in conda_part:
        name, _ = split(spec)
        assert rattler.MatchSpec(spec).name.normalized == name
    with pytest.raises(Exception, match="version"):
        rattler.MatchSpec("numpy>=>2")  # the parser does refuse nonsense


def test_constraints_pin_every_direct_dependency():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {r.name: r for r in (Requirement(line) for line in lines if line and not line.startswith("#"))}
    direct = [Requirement(line) for line in PROJECT["dependencies"] + sum(EXTRAS.values(), [])]
    assert set(pins) == {requirement.name for requirement in direct}
    for requirement in direct:
        (pin,) = pins[requirement.name].specifier
        assert pin.operator == "==" and "+" not in pin.version
        assert requirement.specifier.contains(pin.version.removesuffix(".*")), f"{requirement} excludes {pin}"


@pytest.mark.slow
def test_pip_part_installs_into_a_fresh_venv(pip_part, tmp_path):
    """With everything of the conda part present, pip adds nbval and the package, and nothing else."""
    home = tmp_path / "venv"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    installed = Path(sysconfig.get_path("purelib", vars={"base": home, "platbase": home}))
    conda = tmp_path / "conda"
    conda.mkdir()
    hidden = re.compile(r"nbval|__editable__|annsoftmax|__pycache__|.*\.pth$")
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not hidden.match(entry.name):
            (conda / entry.name).symlink_to(entry)
    (installed / "conda.pth").write_text(f"{conda}\n")

    wanted = tmp_path / "requirements.txt"
    wanted.write_text("\n".join(line.replace("-e .", f"-e {ROOT}") for line in pip_part) + "\n")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "--no-input",
        "install",
        "--no-build-isolation",
    ]
    result = subprocess.run(
        [*pip, "-c", str(ROOT / "constraints.txt"), "-r", str(wanted)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    if "establish a new connection" in result.stderr or "name resolution" in result.stderr:
        pytest.skip("no package index in reach")
    assert result.returncode == 0, result.stderr

    added = {canonicalize_name(p.name.split("-")[0]) for p in installed.glob("*.dist-info")}
    assert added == {"nbval", "annsoftmax-ref"}
    code = "import annsoftmax_ref, nbval; print(annsoftmax_ref.__file__); print(nbval.__file__)"
    where = subprocess.run([python, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True).stdout
    assert where.splitlines() == [
        str(ROOT / "annsoftmax_ref" / "__init__.py"),
        str(installed / "nbval" / "__init__.py"),
    ]
    assert (home / "bin" / "annsoftmax").exists()

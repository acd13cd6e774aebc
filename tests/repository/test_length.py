"""Files stay short: a stage is found by its file's name, and a file is read in one go."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MOST = 300
LADDER = 420  # a .cu file holds all versions of a kernel, from naive to fast, to be read one after the other
EXCEPT = ("kernels_inline/cuda/emulator.h",)  # the CUDA language in one header, included by one name
FOLDERS = ("annsoftmax_ref", "kernels_inline", "notebooks", "tests", "tools")


@pytest.mark.parametrize("ending", ["py", "cpp", "h", "cu"])
def test_no_file_is_longer_than_300_lines(ending):
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob(f"*.{ending}"))]
    assert files
    most = LADDER if ending == "cu" else MOST
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    too_long = {path: length for path, length in lengths.items() if length > most and path not in EXCEPT}
    assert too_long == {}, f"longer than {most} lines: {too_long}; split them by what they are about"

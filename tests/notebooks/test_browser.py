"""A notebook in JupyterLab in a headless Chromium: no error in any cell, and pictures follow the controls.

`make browser` does so with all of them.
"""

import json
import shutil
from pathlib import Path

import pytest
from nbval_runs import ROOT, run

CONTROLS = {"07": ["choice", "scale", "margin", "rival, °"]}


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), reason="no Chromium")
def test_controls_move_pictures_in_jupyterlab(tmp_path):
    result = run(ROOT / "tools" / "browser.py", *CONTROLS, "--out", tmp_path, cwd=ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    for name, seen in json.loads((tmp_path / "browser.json").read_text()).items():
        assert seen["faults"] == []
        assert [control.rpartition(" (")[0] for control in seen["milliseconds"]] == CONTROLS[name[:2]]
        assert (tmp_path / f"{Path(name).stem}_box0.png").stat().st_size > 10_000

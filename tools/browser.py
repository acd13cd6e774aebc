"""Open the notebooks in JupyterLab in a headless Chromium as a reader would: run them from the top, move the controls.

    make browser                                      # all notebooks, into results/browser/
    python tools/browser.py 04 05 --dark --out DIR    # some, in the dark theme

Each notebook is opened in a copy of the course, so that nothing here changes. All its cells are run; an error in any
is told. Then each control is moved by keyboard, and its picture must change. Screenshots of the whole page, and of the
controls after they moved, lie in the folder; what was measured is in browser.json beside them.

Needs Chromium: the system's, or playwright's (`.venv/bin/playwright install chromium`).
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
RUN_ALL = """async () => {
    const lab = window.jupyterapp, panel = lab.shell.currentWidget;
    await panel.context.ready;
    await panel.sessionContext.ready;
    await panel.sessionContext.session.kernel.info;
    await lab.commands.execute('notebook:run-all-cells');
}"""
CELLS = """() => window.jupyterapp.shell.currentWidget.content.widgets.filter(c => c.model.type === 'code').map(c => ({
    count: c.model.executionCount,
    error: c.model.outputs.toJSON().filter(o => o.output_type === 'error').map(o => o.ename + ': ' + o.evalue)[0] || ''
}))"""
BUSY = "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status !== 'idle'"
CONTROLS = ".widget-hslider .noUi-handle, .widget-dropdown select"
PICTURES = "img.widget-image, .widget-html svg"
SEEN = "e => e.src || e.outerHTML"  # what a picture shows


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", help="beginnings of names, as 04; default all")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "browser")
    parser.add_argument("--dark", action="store_true", help="in JupyterLab's dark theme")
    options = parser.parse_args(arguments)
    names = [path.name for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    wanted = [name for name in names if name.startswith(tuple(options.notebooks or [""]))]
    if not wanted:
        parser.error(f"no notebook begins with {' or '.join(options.notebooks)}; there are {', '.join(names)}")
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, laboratory(Path(folder), options.dark) as address:
        with sync_playwright() as play, play.chromium.launch(executable_path=chromium()) as browser:
            page = browser.new_page(viewport={"width": 1400, "height": 1000})
            found = {name: visit(page, address, name, options.out) for name in wanted}
    (options.out / "browser.json").write_text(json.dumps(found, indent=1) + "\n")
    return int(any(one["faults"] for one in found.values()))


def chromium() -> str | None:
    """The system's Chromium; None: the one that playwright installed."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def laboratory(folder: Path, dark: bool):
    """JupyterLab over a copy of the course in ``folder``; yields its address."""
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    for name in ("results", "README.md"):
        (folder / name).symlink_to(ROOT / name)
    # Cells out of sight are kept in the page, so that their controls can be found.
    settings = {"@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"}}
    settings["@jupyterlab/apputils-extension/themes"] = {"theme": "JupyterLab Dark" if dark else "JupyterLab Light"}
    settings["@jupyterlab/apputils-extension/notification"] = {"fetchNews": "false"}
    for name, values in settings.items():
        path = folder / "settings" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}/lab"
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}", "--allow-root"]
    command += ["--IdentityProvider.token=", "--ServerApp.password=", "--LabApp.expose_app_in_browser=True"]
    command += [f"--ServerApp.root_dir={folder}", f"--LabApp.user_settings_dir={folder / 'settings'}"]
    command += [f"--LabApp.workspaces_dir={folder / 'workspaces'}"]
    with open(folder / "server.log", "w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: answers(address), 60, f"JupyterLab did not start: see {folder / 'server.log'}")
        yield address
    finally:
        server.terminate()
        server.wait()


def answers(address: str) -> bool:
    try:
        return urllib.request.urlopen(address, timeout=5).status == 200
    except OSError:
        return False


def wait_until(condition, seconds: float, message: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(message)
        time.sleep(0.02)


def visit(page, address: str, name: str, out: Path) -> dict:
    """Run one notebook from the top, move its controls; -> what was seen, and ``faults``."""
    page.goto(f"{address}/tree/notebooks/{name}?reset")
    page.wait_for_function("() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel")
    begin = time.monotonic()
    page.evaluate(RUN_ALL)
    wait_until(lambda: not page.evaluate(BUSY), 300, f"{name} is still running after 300 s")
    seconds = time.monotonic() - begin
    cells = page.evaluate(CELLS)
    faults = [f"cell {i}: {cell['error']}" for i, cell in enumerate(cells, 1) if cell["error"]]
    faults += [f"cell {i} was not run" for i, cell in enumerate(cells, 1) if cell["count"] is None]
    photograph(page, out / Path(name).stem)
    moved, more = move_controls(page, out / Path(name).stem)
    print(f"{name}: {len(cells)} cells in {seconds:.0f} s; controls moved, ms to a new picture: {moved}", flush=True)
    for fault in faults + more:
        print(f"  {fault}", flush=True)
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    return {"cells": len(cells), "seconds": round(seconds, 1), "milliseconds": moved, "faults": faults + more}


def photograph(page, stem: Path) -> None:
    """The whole notebook, a screenful at a time."""
    scroller = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-WindowedPanel-outer")
    height, screen = scroller.evaluate("e => [e.scrollHeight, e.clientHeight]")
    for number, top in enumerate(range(0, height, screen)):
        scroller.evaluate("(e, top) => e.scrollTo(0, top)", top)
        page.wait_for_timeout(100)
        page.screenshot(path=f"{stem}_{number:02d}.png")


def move_controls(page, stem: Path) -> tuple[dict[str, int], list[str]]:
    """Move each slider and menu; -> milliseconds until the picture beside it changed, and faults."""
    moved, faults = {}, []
    for number, box in enumerate(page.locator(".jp-OutputArea-output .widget-vbox").all()):
        pictures = box.locator(PICTURES)
        for control in box.locator(CONTROLS).all() if pictures.count() else ():
            label = control.locator("xpath=ancestor::*[contains(@class, 'widget-inline-hbox')]").locator("label")
            name = f"{label.inner_text()} ({number})"
            milliseconds = move(page, control, pictures.first)
            if milliseconds is None:
                faults.append(f"the picture did not follow {name}")
            else:
                moved[name] = milliseconds
        if pictures.count():
            box.scroll_into_view_if_needed()
            page.wait_for_timeout(200)
            box.screenshot(path=f"{stem}_box{number}.png")
    return moved, faults


def move(page, control, picture) -> int | None:
    """Milliseconds from a step of the control to a new picture; None if five steps in turn bring none."""
    menu = control.evaluate("e => e.tagName") == "SELECT"
    options = control.evaluate("e => e.length") if menu else 0
    for _ in range(5):  # one step may leave the picture as it is: a list more to search, and nothing found in it
        before, begin = picture.evaluate(SEEN), time.monotonic()
        if menu:
            control.select_option(index=(control.evaluate("e => e.selectedIndex") + 1) % options)
        else:
            control.focus()
            page.keyboard.press("ArrowRight")
        try:
            wait_until(lambda: picture.evaluate(SEEN) != before, 3, "")  # noqa: B023 used at once
            return round(1000 * (time.monotonic() - begin))
        except TimeoutError:
            continue
    return None


if __name__ == "__main__":
    sys.exit(main())

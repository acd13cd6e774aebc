"""Look at the built site as its readers do: on a phone and on a desk, by day and by night.

    python tools/website/look.py                    # every page, into results/browser/site/
    python tools/website/look.py notebooks/05 api   # those whose address begins so

Says which pages are wider than the screen, so that a reader has to push them about. Needs `make site` and Chromium,
as tools/browser.py does.
"""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

sys.path.append(str(Path(__file__).resolve().parents[1]))

from browser import chromium
from contents import ROOT
from dead_links import built_pages
from make_site import SITE

OUT = ROOT / "results" / "browser" / "site"
WIDTHS = (390, 1280)
LONGEST = 6000  # pixels of a page that are photographed
TOO_WIDE = "() => document.documentElement.scrollWidth - window.innerWidth"


def main() -> int:
    beginnings = tuple(sys.argv[1:] or [""])
    names = [str(path.relative_to(SITE)) for path in built_pages(SITE)]
    OUT.mkdir(parents=True, exist_ok=True)
    wide = []
    with sync_playwright() as play, play.chromium.launch(executable_path=chromium()) as browser:
        for width in WIDTHS:
            for scheme in ("light", "dark"):
                page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
                for name in filter(lambda name: name.startswith(beginnings), names):
                    page.goto((SITE / name).as_uri())
                    if (pixels := page.evaluate(TOO_WIDE)) > 0:
                        wide.append(f"{name} is {pixels} pixels wider than a screen of {width}")
                    height = min(LONGEST, page.evaluate("() => document.documentElement.scrollHeight"))
                    clip = {"x": 0, "y": 0, "width": width, "height": height}
                    stem = name.removesuffix(".html").replace("/", "_")
                    page.screenshot(path=OUT / f"{stem}_{width}_{scheme}.png", full_page=True, clip=clip)
                page.close()
    print("\n".join(wide) or f"no page is wider than its screen; pictures in {OUT.relative_to(ROOT)}")
    return int(bool(wide))


if __name__ == "__main__":
    sys.exit(main())

"""How the page looks, against pictures of it, and what the checker axe-core says of it, on phones and desktops."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sample_report
from fireact.reporting.html import render_html
from fireact.reporting.wording import make_encodable

pytest.importorskip("PIL.Image", reason="Pillow is not installed (matplotlib brings it)")
from PIL import Image, ImageChops, ImageStat

GOLDEN = Path(__file__).parent / "golden" / "page"
AXE = Path(os.environ.get("FIREACT_AXE", Path(__file__).parents[1] / ".venv" / "axe"))
WIDTHS, SCHEMES, HEIGHT = (360, 768, 1280), ("light", "dark"), 1400
VIEWS = {"report": "", "trajectories": "#trajectories"}
BLOCK = 12
"""Pixels that are averaged before pictures are compared: fonts and their smoothing differ between machines."""
TOLERANCE = 0.06
"""The share of blocks that may differ by more than ``CONTRAST`` of 255 levels of grey."""
CONTRAST = 28


@pytest.fixture(scope="module")
def browser(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(make_encodable(render_html(sample_report.sample_with_noise(20))), encoding="utf-8")
    chromium.address = file.as_uri()
    yield chromium
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def open_page(browser: Any, view: str, *, width: int, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    size = {"width": width, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get("about:blank")
    browser.get(browser.address + VIEWS[view])
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("view", VIEWS)
def test_the_page_looks_as_its_picture(browser: Any, view: str, width: int, scheme: str) -> None:
    open_page(browser, view, width=width, scheme=scheme)
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"]
    picture = Image.open(io.BytesIO(base64.b64decode(shot))).convert("RGB")
    golden = GOLDEN / f"{view}-{width}-{scheme}.png"
    if os.environ.get("FIREACT_UPDATE_GOLDEN"):
        golden.parent.mkdir(exist_ok=True)
        half = picture.resize((picture.width // 2, picture.height // 2))
        half.quantize(12, dither=Image.Dither.NONE).save(golden, optimize=True)
    kept = Image.open(golden).convert("RGB").resize(picture.size)
    share = differing_share(picture, kept)
    assert share <= TOLERANCE, f"{share:.1%} of {golden.name} differ; run with FIREACT_UPDATE_GOLDEN=1 and look at it"


def differing_share(picture: Any, golden: Any) -> float:
    """The share of blocks of a picture whose mean grey differs clearly from the golden one."""
    blocks = (picture.width // BLOCK, picture.height // BLOCK)
    pair = (one.convert("L").resize(blocks, Image.Resampling.BOX) for one in (picture, golden))
    marked = ImageChops.difference(*pair).point(lambda grey: 255 * (grey > CONTRAST))
    return float(ImageStat.Stat(marked).mean[0]) / 255


def test_the_comparison_of_pictures_sees_what_moved(browser: Any) -> None:
    golden = Image.open(GOLDEN / "report-1280-light.png").convert("RGB").resize((1280, HEIGHT))
    moved = ImageChops.offset(golden, 0, 60)
    assert differing_share(golden, golden) == 0 and differing_share(moved, golden) > 2 * TOLERANCE
    assert sum(file.stat().st_size for file in GOLDEN.iterdir()) < 300_000


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", (360, 1280))
@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_no_violation(browser: Any, view: str, width: int, scheme: str) -> None:
    script = AXE / "node_modules" / "axe-core" / "axe.min.js"
    if not script.exists():
        pytest.skip("axe-core is not installed (scripts/axe-core)")
    open_page(browser, view, width=width, scheme=scheme)
    browser.execute_script(script.read_text(encoding="utf-8"))
    found = browser.execute_async_script(
        "const done = arguments[0]; for (const d of document.querySelectorAll('details')) d.open = true;"
        "axe.run(document, {resultTypes: ['violations']}).then(r => done(r.violations), e => done(String(e)))"
    )
    assert found == [], [
        (each["id"], each["help"], [node["html"][:200] for node in each["nodes"][:3]]) for each in found
    ]

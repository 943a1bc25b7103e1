"""Draw docs/web.png, the page of ``spleeter web`` with the demo song.

python scripts/web_picture.py    # needs ".[tests]" and chromium
"""

import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(1, str(REPOSITORY / "tests"))


def main() -> None:
    from support.browser import open_browser, wait
    from support.web import Server

    song = REPOSITORY / "demo/lets-go-fishin.ogg"
    with (
        tempfile.TemporaryDirectory() as folder,
        Server("--folder", folder, "--open", song) as server,
        open_browser() as browser,
    ):
        page = browser.new_page(viewport={"width": 1100, "height": 960})
        page.goto(server.address)
        page.locator(".card.done").wait_for()
        if not page.locator(".player").count():
            page.get_by_role("button", name="Open player").click()
        page.locator(".wave").first.click(position={"x": 150, "y": 10})
        wait(page, "document.querySelector('.card').player.position > 0")
        page.screenshot(path=REPOSITORY / "docs/web.png")


if __name__ == "__main__":
    main()

"""A headless browser for what is made to be seen: Debian's Chromium, or any other that is found."""

import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--allow-file-access-from-files",
)  # fmt: skip
FRAME = """<body style="margin:0"><iframe src="{page}" style="border:0;width:{width}px;height:800px"></iframe>
<script>onload = () => {{
  const page = document.querySelector("iframe").contentDocument, range = page.createRange();
  document.title = ({wanted});
}}</script>"""

AXE = """<script src="{axe}"></script><script>
axe.run({{resultTypes: ["violations"]}}).then(({{violations}}) => {{
  document.title = JSON.stringify(violations.filter(one => ["serious", "critical"].includes(one.impact)).map(
    one => `${{one.id}}: ${{one.nodes[0].html.slice(0, 200)}} ${{one.nodes[0].failureSummary}}`));
}});
</script>"""
DARK = "--blink-settings=preferredColorScheme=0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Browser:
    """An installed Chromium and a folder of its own."""

    program: str
    folder: Path

    def _run(self, *words: str) -> str:
        command = [self.program, *QUIET, f"--user-data-dir={self.folder / 'profile'}", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout

    def document(self, page: Path) -> str:
        """Return a page as the browser has it once its scripts have run."""
        return self._run("--dump-dom", page.as_uri())

    def width_px(self, page: Path, screen_px: int) -> int:
        """Return how wide a page is on a screen; a window itself cannot be as narrow as a phone's."""
        return self._measured(page, screen_px, "page.documentElement.scrollWidth")

    def lines(self, page: Path, screen_px: int, selector: str) -> int:
        """Return on how many lines the first text of an element stands on a screen."""
        text = f"range.selectNodeContents(page.querySelector('{selector}').firstChild), range.getClientRects().length"
        return self._measured(page, screen_px, text)

    def _measured(self, page: Path, screen_px: int, wanted: str) -> int:
        frame = self.folder / "frame.html"
        frame.write_text(FRAME.format(page=page.as_uri(), width=screen_px, wanted=wanted))
        found = re.search(r"<title>(\d+)</title>", self.document(frame))
        assert found is not None, "the page was not shown"
        return int(found.group(1))

    def faults(self, page: Path, *words: str) -> list[str]:
        """Return what axe-core finds seriously wrong with a page, each with the first element that it is about."""
        axe = Path(find_spec("axe_core_python").submodule_search_locations[0]) / "axe.min.js"  # type: ignore[union-attr, index]
        open_ = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text(encoding="utf-8"))  # which lets no axe in
        copy = page.with_name(f"axe-{page.name}")
        copy.write_text(open_.replace("</html>", AXE.format(axe=axe.as_uri()) + "</html>"), encoding="utf-8")
        try:
            found = re.search(r"<title>(\[.*?\])</title>", self._run("--virtual-time-budget=60000", *words, "--dump-dom", copy.as_uri()))
        finally:
            copy.unlink()
        assert found is not None, "axe-core did not end"
        return list(json.loads(html.unescape(found.group(1))))

    def printed_pages(self, page: Path) -> int:
        """Print a page on paper, and return how many sheets it takes."""
        paper = self.folder / "paper.pdf"
        self._run("--no-pdf-header-footer", f"--print-to-pdf={paper}", page.as_uri())
        return len(re.findall(rb"/Type\s*/Page\b", paper.read_bytes()))


def installed() -> str | None:
    """Return the first browser's program, or None where there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)

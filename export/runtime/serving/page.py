"""The page at ``/``: one file, which loads nothing from elsewhere and may run nothing but its own script."""

import base64
import hashlib
from pathlib import Path

_FOLDER = Path(__file__).parent
_MARKUP, STYLE, *_SCRIPTS = (
    (_FOLDER / name).read_text(encoding="utf-8")
    for name in ("page.html", "page.css", "page.js", "page_snippets.js")
)
SCRIPT = "\n".join(_SCRIPTS)
PAGE = _MARKUP.replace("/* page.css */", STYLE).replace("/* page.js */", SCRIPT)


def _hash(content: str) -> str:
    """The source expression of an inline element with that content."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


POLICY = {
    "default-src": "'none'",
    "script-src": _hash(SCRIPT),
    "style-src": _hash(STYLE),
    "connect-src": "'self'",
    "img-src": "data:",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
HEADERS = {
    "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in POLICY.items()),
    "Cache-Control": "no-cache",
}

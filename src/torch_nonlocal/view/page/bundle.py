"""Joins template, style, scripts and data into one HTML file that runs from disk."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from importlib.resources import files
from typing import Any

from torch_nonlocal._common.optional import require

_STATIC = files("torch_nonlocal.view.page") / "static"
# In the order of their dependencies.
_SCRIPTS = (
    "data.js",
    "measures.js",
    "colors.js",
    "draw.js",
    "stage.js",
    "player.js",
    "address.js",
    "picture.js",
    "controls.js",
    "main.js",
)
_IMPORT = re.compile(r"^import [^;]*?;\n", re.MULTILINE | re.DOTALL)
_EXPORT = re.compile(r"^export (?=(?:async )?function |class |const |let )", re.MULTILINE)


def render(title: str, page: dict[str, Any], texts: list[str]) -> str:
    """Return the page as HTML.

    Args:
        title: title of the page, as plain text.
        page: data for the scripts, JSON values.
        texts: base64 texts, which the scripts find by index.

    Raises:
        ImportError: Jinja2 is missing.
    """
    jinja2 = require("jinja2")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    safe = jinja2.utils.markupsafe.Markup
    template = environment.from_string(_read("page.html.j2"))
    code = {"style": safe(_read("page.css")), "script": safe(_inside_script(_joined_scripts()))}
    hashes = {name: safe(_policy_hash(text)) for name, text in code.items()}
    return template.render(title=title, page=safe(_json(page)), texts=texts, hashes=hashes, **code)


def _read(name: str) -> str:
    return (_STATIC / name).read_text(encoding="utf-8")


def _joined_scripts() -> str:
    """Join all modules in one scope: a page opened from disk cannot import other files."""
    sources = (f"// {name}\n{_EXPORT.sub('', _IMPORT.sub('', _read(name)))}" for name in _SCRIPTS)
    return '"use strict";\n(() => {\n' + "\n".join(sources) + "})();\n"


def _policy_hash(text: str) -> str:
    """Return the text's source expression for the Content-Security-Policy: only this element runs or applies."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _json(value: Any) -> str:
    """JSON for a script element: no text in it can end the element or start a comment."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _inside_script(source: str) -> str:
    return source.replace("</script", "<\\/script").replace("<!--", "<\\!--")

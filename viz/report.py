"""One-file HTML report: text, tables, numbers, pictures and movies, readable for years.

Everything is embedded; the file needs no network, no scripts and no folder beside it. Light and
dark follow the reader's system.
"""

from __future__ import annotations

import base64
import html
import io
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Report"]

_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".svg": "image/svg+xml",
    ".webp": "image/webp",
    ".mp4": "video/mp4",
    ".webm": "video/webm",
}

_STYLE = """
:root{color-scheme:light dark;--bg:#fbfcfd;--fg:#1d2733;--soft:#5b6877;--line:#d9dfe6;
--card:#f0f3f6;--link:#2467b8}
@media(prefers-color-scheme:dark){:root{--bg:#12161c;--fg:#e3e8ee;--soft:#94a1b0;--line:#2d3641;
--card:#1b212a;--link:#76aef0}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--fg);font:16px/1.6 system-ui,-apple-system,"Segoe UI",
Roboto,"Helvetica Neue",sans-serif}
main{max-width:58rem;margin:0 auto;padding:2.5rem 1.25rem 4rem}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 .3rem}
h2{font-size:1.3rem;margin:2.4rem 0 .6rem;padding-bottom:.3rem;border-bottom:1px solid var(--line)}
h3{font-size:1.05rem;margin:1.8rem 0 .4rem}
p,ul,ol{margin:.7rem 0}a{color:var(--link)}
.sub{color:var(--soft);margin:0 0 1.5rem}
code{font:.9em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;background:var(--card);
padding:.1em .35em;border-radius:4px}
pre{background:var(--card);padding:.9rem 1rem;border-radius:8px;overflow:auto;line-height:1.45}
pre code{background:none;padding:0}
.scroll{overflow-x:auto}
table{border-collapse:collapse;margin:1rem 0;font-variant-numeric:tabular-nums;font-size:.94rem}
th,td{padding:.4rem .9rem .4rem 0;text-align:left;border-bottom:1px solid var(--line)}
th{color:var(--soft);font-weight:600}td.n,th.n{text-align:right}
figure{margin:1.4rem 0}img,video{max-width:100%;height:auto;border-radius:8px;display:block}
figcaption{color:var(--soft);font-size:.9rem;margin-top:.5rem}
.row{display:flex;flex-wrap:wrap;gap:1rem}.row figure{flex:1 1 18rem;margin:.4rem 0}
dl{display:flex;flex-wrap:wrap;gap:.7rem;margin:1.2rem 0}
dl div{background:var(--card);border-radius:8px;padding:.6rem 1rem;min-width:8.5rem}
dt{color:var(--soft);font-size:.82rem}dd{margin:0;font-size:1.25rem;font-weight:600;
font-variant-numeric:tabular-nums}
@media print{main{max-width:none;padding:0}figure,table,dl{break-inside:avoid}}
"""


class Report:
    """Collects sections and writes them as one self-contained HTML file.

    Args:
        title: heading and name of the page.
        subtitle: one line under it, such as the date or the machine.

    Every `add_…` returns the report, so calls can be chained.
    """

    def __init__(self, title: str, subtitle: str = "") -> None:
        self.title = title
        self.subtitle = subtitle
        self._parts: list[str] = []

    def add_text(self, text: str) -> Report:
        """Text with a little markdown: # headings, paragraphs, - lists, 1. lists, ``` blocks,
        **bold**, *italic*, `code`, [label](address)."""
        self._parts.append(_markdown(text))
        return self

    def add_metrics(self, metrics: Mapping[str, Any]) -> Report:
        """Numbers as cards; a value may be a pair (number, unit)."""
        cards = []
        for name, value in metrics.items():
            unit = ""
            if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], str):
                value, unit = value
            shown = html.escape(f"{_text(value)} {unit}".strip())
            cards.append(f"<div><dt>{html.escape(str(name))}</dt><dd>{shown}</dd></div>")
        self._parts.append(f"<dl>{''.join(cards)}</dl>")
        return self

    def add_table(
        self,
        rows: Sequence[Mapping[str, Any]] | Sequence[Sequence[Any]],
        header: Sequence[str] | None = None,
        caption: str = "",
    ) -> Report:
        """Table from dictionaries, whose keys head the columns, or from sequences and a header."""
        rows = list(rows)
        if rows and isinstance(rows[0], Mapping):
            header = list(header or dict.fromkeys(key for row in rows for key in row))
            cells = [[row.get(key, "") for key in header] for row in rows]
        else:
            cells = [list(row) for row in rows]
        width = len(header) if header else max((len(row) for row in cells), default=0)
        if any(len(row) != width for row in cells):
            raise ValueError(
                f"Report.add_table: {width} cells in every row; got rows of "
                f"{sorted({len(row) for row in cells})}. Fill missing cells with ''."
            )
        numeric = [
            bool(cells) and all(_is_number(row[k]) or row[k] == "" for row in cells)
            for k in range(width)
        ]
        kind = [' class="n"' if n else "" for n in numeric]
        lines = []
        if header:
            heads = "".join(
                f"<th{kind[k]}>{html.escape(str(name))}</th>" for k, name in enumerate(header)
            )
            lines.append(f"<thead><tr>{heads}</tr></thead>")
        body = "".join(
            "<tr>"
            + "".join(f"<td{kind[k]}>{html.escape(_text(v))}</td>" for k, v in enumerate(row))
            + "</tr>"
            for row in cells
        )
        lines.append(f"<tbody>{body}</tbody>")
        note = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
        table = f'<div class="scroll"><table>{"".join(lines)}</table></div>'
        self._parts.append(f"<figure>{table}{note}</figure>")
        return self

    def add_image(self, image: str | os.PathLike | np.ndarray, caption: str = "") -> Report:
        """Picture file or array (H, W, 3) uint8, embedded."""
        self._parts.append(_figure(image, caption))
        return self

    def add_images(
        self, images: Sequence[str | os.PathLike | np.ndarray], captions: Sequence[str] = ()
    ) -> Report:
        """Several pictures or movies in a row that wraps on narrow screens."""
        captions = list(captions) + [""] * (len(images) - len(captions))
        figures = "".join(_figure(i, c) for i, c in zip(images, captions, strict=True))
        self._parts.append(f'<div class="row">{figures}</div>')
        return self

    def add_movie(self, path: str | os.PathLike, caption: str = "") -> Report:
        """Movie file (.gif, .mp4, .webm), embedded."""
        self._parts.append(_figure(path, caption))
        return self

    def html(self) -> str:
        """The page as a string."""
        title = html.escape(self.title)
        sub = f'<p class="sub">{html.escape(self.subtitle)}</p>' if self.subtitle else ""
        body = "\n".join(self._parts)
        return (
            f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta name="viewport" content="width=device-width,initial-scale=1">'
            f"<title>{title}</title><style>{_STYLE}</style></head>\n"
            f"<body><main><h1>{title}</h1>{sub}\n{body}\n</main></body></html>\n"
        )

    def save(self, path: str | os.PathLike) -> Path:
        """Write the page; the old file stays until the new one is complete."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            part.write_text(self.html(), encoding="utf-8")
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        return path


def _figure(source, caption: str) -> str:
    """Picture or movie with its bytes inside."""
    if isinstance(source, np.ndarray):
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(source).save(buffer, "PNG")
        data, kind = buffer.getvalue(), "image/png"
    else:
        path = Path(source)
        kind = _TYPES.get(path.suffix.lower(), "")
        if not kind:
            raise ValueError(
                f"Report: a picture or movie ending in {sorted(_TYPES)}; got {path.name!r}. "
                "Convert the file."
            )
        data = path.read_bytes()
    address = f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
    alt = html.escape(caption, quote=True)
    if kind.startswith("video/"):
        tag = f'<video src="{address}" controls loop muted playsinline></video>'
    else:
        tag = f'<img src="{address}" alt="{alt}">'
    note = f"<figcaption>{_inline(caption)}</figcaption>" if caption else ""
    return f"<figure>{tag}{note}</figure>"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def _text(value: Any) -> str:
    """Numbers with four digits, anything else as it prints."""
    if hasattr(value, "item"):
        value = value.item()
    if _is_number(value) and not isinstance(value, (int, np.integer)):
        return f"{value:.4g}"
    return str(value)


def _inline(text: str) -> str:
    """Bold, italic, code and links of one line; everything else escaped."""
    pieces = re.split(r"(`[^`]+`)", text)
    out = []
    for piece in pieces:
        if len(piece) > 1 and piece.startswith("`") and piece.endswith("`"):
            out.append(f"<code>{html.escape(piece[1:-1])}</code>")
            continue
        piece = html.escape(piece, quote=True)
        piece = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", piece)
        piece = re.sub(r"(?<![\w*])\*([^*\s][^*]*?)\*(?![\w*])", r"<em>\1</em>", piece)
        piece = re.sub(
            r"\[([^\]]+)\]\(((?:https?:|#|mailto:)[^)\s]+)\)", r'<a href="\2">\1</a>', piece
        )
        out.append(piece)
    return "".join(out)


def _markdown(text: str) -> str:
    """The small part of markdown that reports need."""
    out: list[str] = []
    blocks = re.split(r"(?ms)^```[^\n]*\n(.*?)^```\s*$", text)
    for index, block in enumerate(blocks):
        if index % 2:
            out.append(f"<pre><code>{html.escape(block.rstrip())}</code></pre>")
            continue
        for paragraph in re.split(r"\n\s*\n", block):
            out.extend(_paragraph([line.strip() for line in paragraph.strip().splitlines()]))
    return "\n".join(out)


def _paragraph(lines: list[str]) -> list[str]:
    """Headings, lists and running text of a block without empty lines."""
    out: list[str] = []
    run: list[str] = []
    kind = "p"

    def flush():
        if run and kind == "p":
            out.append(f"<p>{_inline(' '.join(run))}</p>")
        elif run:
            items = "".join(f"<li>{_inline(item)}</li>" for item in run)
            out.append(f"<{kind}>{items}</{kind}>")
        run.clear()

    for line in lines:
        heading = re.match(r"(#{1,3})\s+(.*)", line)
        item = re.match(r"(?:([-*])|\d+[.)])\s+(.*)", line)
        if heading:
            flush()
            level = min(3, len(heading[1]) + 1)
            out.append(f"<h{level}>{_inline(heading[2])}</h{level}>")
            kind = "p"
        elif item:
            wanted = "ul" if item[1] else "ol"
            if wanted != kind:
                flush()
                kind = wanted
            run.append(item[2])
        elif kind != "p" and run:
            run[-1] += " " + line  # a wrapped list item
        else:
            run.append(line)
    flush()
    return out

"""How the status page looks: calm, legible from a step away and on a small screen, dark unless asked for light.

A reading room is dark; a desk by a window is not, and says so by `prefers-color-scheme`.
"""

from collections.abc import Mapping
from typing import Final

# What letters are written on, and letters: any of these may lie on any of those, so each pair is legible.
GROUNDS: Final = ("page", "card", "well", "alert", "calm")
LETTERS: Final = ("ink", "head", "quiet", "code", "alert-ink", "calm-ink", "delivered", "failed", "running", "queued")
PILLS: Final = ("good", "bad")  # with letters of their own: pill-ink
DARK: Final[Mapping[str, str]] = {
    "page": "#11161b",
    "card": "#1a222a",
    "well": "#0c1014",
    "alert": "#221a19",
    "calm": "#1f1d16",
    "ink": "#dfe5ea",
    "head": "#b9c6d2",
    "quiet": "#97a6b4",
    "code": "#c9def2",
    "alert-ink": "#ffb3a3",
    "calm-ink": "#f0d98a",
    "delivered": "#7fdc9b",
    "failed": "#ff9f8c",
    "running": "#8cc4ff",
    "queued": "#e8cf7a",
    "pill-ink": "#0d1216",
    "good": "#6fd08c",
    "bad": "#ff8f7a",
    "line": "#2c3640",
    "row": "#26303a",
    "alert-line": "#7a463c",
    "alert-edge": "#d9705b",
    "calm-line": "#6b6034",
    "calm-edge": "#d6b94f",
}
LIGHT: Final[Mapping[str, str]] = {
    "page": "#f4f6f8",
    "card": "#ffffff",
    "well": "#e8edf1",
    "alert": "#fdf0ed",
    "calm": "#fcf7e3",
    "ink": "#1b232b",
    "head": "#35424e",
    "quiet": "#4d5a66",
    "code": "#1d466d",
    "alert-ink": "#8f2614",
    "calm-ink": "#655000",
    "delivered": "#14602f",
    "failed": "#a02a16",
    "running": "#14539a",
    "queued": "#6a5400",
    "pill-ink": "#ffffff",
    "good": "#1b7a3d",
    "bad": "#b3341f",
    "line": "#c5ced6",
    "row": "#dbe1e6",
    "alert-line": "#e0aca1",
    "alert-edge": "#c0432b",
    "calm-line": "#d8c683",
    "calm-edge": "#a98a12",
}


def _variables(theme: Mapping[str, str]) -> str:
    return "".join(f"--{name}:{colour};" for name, colour in theme.items())


STYLE: Final = (
    f"\n:root{{color-scheme:dark;{_variables(DARK)}}}\n"
    f"@media (prefers-color-scheme:light){{:root{{color-scheme:light;{_variables(LIGHT)}}}}}"
    """
*{box-sizing:border-box}
body{margin:0 auto;max-width:76rem;padding:0 1.25rem 2rem;background:var(--page);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif}
header{display:flex;flex-wrap:wrap;align-items:baseline;gap:.25rem 1rem;padding:1.25rem 0 .75rem;
border-bottom:1px solid var(--line)}
h1{font-size:1.35rem;margin:0;font-weight:600;overflow-wrap:anywhere}
h2{font-size:1.05rem;margin:0 0 .5rem;font-weight:600;color:var(--head)}
h3{font-size:1rem;margin:0;font-weight:600;overflow-wrap:anywhere}
p{margin:.35rem 0}
header p{margin:0}
header .good,header .bad{font-weight:700;padding:.05rem .7rem;border-radius:1rem;color:var(--pill-ink)}
header .good{background:var(--good)}
header .bad{background:var(--bad)}
section,main>article{margin-top:1.75rem}
.quiet{color:var(--quiet);font-size:.9em}
.alert{border:1px solid var(--alert-line);border-left:6px solid var(--alert-edge);border-radius:6px;padding:.6rem 1rem;
background:var(--alert);margin-bottom:.75rem}
.alert h2,.alert h3{color:var(--alert-ink)}
.calm{border-color:var(--calm-line);border-left-color:var(--calm-edge);background:var(--calm)}
.calm h3{color:var(--calm-ink)}
.alert ul{margin:.35rem 0 0;padding-left:1.2rem;font-size:.92em;color:var(--head)}
.alert li{overflow-wrap:anywhere}
code,pre{font:.92em/1.4 ui-monospace,"DejaVu Sans Mono",monospace;color:var(--code)}
h2 code,h3 code{font-weight:400;margin-left:.35rem}
pre{margin:.4rem 0;padding:.45rem .7rem;background:var(--well);border-radius:4px;white-space:pre-wrap;overflow-x:auto}
pre span,.key{white-space:nowrap}
.counts{display:grid;grid-template-columns:repeat(auto-fit,minmax(6.9rem,1fr));gap:.5rem;margin:0 0 1rem}
.counts div{background:var(--card);border-radius:6px;padding:.4rem .75rem}
.counts dt{font-size:.85rem;color:var(--quiet)}
.counts dd{margin:0;font-size:1.5rem;line-height:1.3;font-variant-numeric:tabular-nums}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--quiet);font-size:.9em;padding-bottom:.2rem}
th,td{text-align:left;padding:.35rem 1.1rem .35rem 0;border-bottom:1px solid var(--row);vertical-align:top;
font-weight:400}
th:last-child,td:last-child{padding-right:0}
thead th{font-weight:600;font-size:.85rem;color:var(--quiet);white-space:nowrap}
.number{text-align:right}
td.number{white-space:nowrap}
tbody th{min-width:6.5rem}
th .quiet{font-size:.85em}
.delivered{color:var(--delivered)}
.quarantined,.failed{color:var(--failed)}
.running,.segmented,.joined{color:var(--running)}
.receiving,.queued{color:var(--queued)}
.superseded,.none{color:var(--quiet)}
meter{width:9rem;height:1rem;vertical-align:-.1rem}
.pictures{display:flex;flex-wrap:wrap;gap:.75rem}
figure{margin:0;flex:1 1 16rem;max-width:24rem}
img{width:100%;height:auto;border-radius:6px;background:#000;display:block}
figcaption{font-size:.9rem;color:var(--head);margin-top:.2rem}
footer{margin-top:2rem;border-top:1px solid var(--line);padding-top:.4rem;color:var(--quiet);font-size:.9em}
footer p+p a{margin-right:.6rem}
a{color:var(--running)}
a:focus-visible,.wide:focus-visible,pre:focus-visible{outline:2px solid var(--running);outline-offset:2px}
@media (max-width:40rem){body{padding:0 .8rem 1.5rem;font-size:15px}header{padding-top:.8rem}.rest{display:none}
th,td{padding-right:.55rem}
td{overflow-wrap:anywhere}td.number{overflow-wrap:normal}td span{white-space:nowrap}
.alert{padding:.5rem .7rem}.counts{grid-template-columns:repeat(4,1fr);gap:.35rem}
.counts div{padding:.3rem .4rem}.counts dt{font-size:.78rem}.counts dd{font-size:1.25rem}tbody th{min-width:0}}
"""
)

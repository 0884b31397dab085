"""How the status page looks: calm and dark, legible from a step away, and on a small screen."""

from typing import Final

STYLE: Final = """
:root{color-scheme:dark}
*{box-sizing:border-box}
body{margin:0 auto;max-width:76rem;padding:0 1.25rem 2rem;background:#11161b;color:#dfe5ea;
font:16px/1.5 system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif}
header{display:flex;flex-wrap:wrap;align-items:baseline;gap:.25rem 1rem;padding:1.25rem 0 .75rem;
border-bottom:1px solid #2c3640}
h1{font-size:1.35rem;margin:0;font-weight:600;overflow-wrap:anywhere}
h2{font-size:1.05rem;margin:0 0 .5rem;font-weight:600;color:#b9c6d2}
h3{font-size:1rem;margin:0;font-weight:600;overflow-wrap:anywhere}
p{margin:.35rem 0}
header p{margin:0}
header .good,header .bad{font-weight:700;padding:.05rem .7rem;border-radius:1rem;color:#0d1216}
header .good{background:#6fd08c}
header .bad{background:#ff8f7a}
section,main>article{margin-top:1.75rem}
.quiet{color:#97a6b4;font-size:.9em}
.alert{border:1px solid #7a463c;border-left:6px solid #d9705b;border-radius:6px;padding:.6rem 1rem;
background:#221a19;margin-bottom:.75rem}
.alert h2,.alert h3{color:#ffb3a3}
.calm{border-color:#6b6034;border-left-color:#d6b94f;background:#1f1d16}
.calm h3{color:#f0d98a}
.alert ul{margin:.35rem 0 0;padding-left:1.2rem;font-size:.92em;color:#b9c6d2}
.alert li{overflow-wrap:anywhere}
code,pre{font:.92em/1.4 ui-monospace,"DejaVu Sans Mono",monospace;color:#c9def2}
h2 code,h3 code{font-weight:400;margin-left:.35rem}
pre{margin:.4rem 0;padding:.45rem .7rem;background:#0c1014;border-radius:4px;white-space:pre-wrap;overflow-x:auto}
pre span,.key{white-space:nowrap}
.counts{display:grid;grid-template-columns:repeat(auto-fit,minmax(6.9rem,1fr));gap:.5rem;margin:0 0 1rem}
.counts div{background:#1a222a;border-radius:6px;padding:.4rem .75rem}
.counts dt{font-size:.85rem;color:#97a6b4}
.counts dd{margin:0;font-size:1.5rem;line-height:1.3;font-variant-numeric:tabular-nums}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
caption{text-align:left;color:#97a6b4;font-size:.9em;padding-bottom:.2rem}
th,td{text-align:left;padding:.35rem 1.1rem .35rem 0;border-bottom:1px solid #26303a;vertical-align:top;font-weight:400}
th:last-child,td:last-child{padding-right:0}
thead th{font-weight:600;font-size:.85rem;color:#97a6b4;white-space:nowrap}
.number{text-align:right}
td.number{white-space:nowrap}
tbody th{min-width:6.5rem}
th .quiet{font-size:.85em}
.delivered{color:#7fdc9b}
.quarantined,.failed{color:#ff9f8c}
.running,.segmented,.joined{color:#8cc4ff}
.receiving,.queued{color:#e8cf7a}
.superseded,.none{color:#97a6b4}
meter{width:9rem;height:1rem;vertical-align:-.1rem}
.pictures{display:flex;flex-wrap:wrap;gap:.75rem}
figure{margin:0;flex:1 1 16rem;max-width:24rem}
img{width:100%;height:auto;border-radius:6px;background:#000;display:block}
figcaption{font-size:.9rem;color:#b9c6d2;margin-top:.2rem}
footer{margin-top:2rem;border-top:1px solid #2c3640;padding-top:.4rem;color:#97a6b4;font-size:.9em}
footer p+p a{margin-right:.6rem}
a{color:#8cc4ff}
a:focus-visible,.wide:focus-visible,pre:focus-visible{outline:2px solid #8cc4ff;outline-offset:2px}
@media (max-width:40rem){body{padding:0 .8rem 1.5rem;font-size:15px}header{padding-top:.8rem}.rest{display:none}
th,td{padding-right:.55rem}
td{overflow-wrap:anywhere}td.number{overflow-wrap:normal}td span{white-space:nowrap}
.alert{padding:.5rem .7rem}.counts{grid-template-columns:repeat(4,1fr);gap:.35rem}
.counts div{padding:.3rem .4rem}.counts dt{font-size:.78rem}.counts dd{font-size:1.25rem}tbody th{min-width:0}}
"""

"""The style sheet of a report: no web fonts, no scripts, light and dark."""

STYLE = """
:root { color-scheme: light dark; --paper: #fbfbfa; --card: #ffffff; --ink: #1c2126; --muted: #69727d; --grid: #e4e6e8;
  --accent: #0b7a69; --good: #0b7a69; --bad: #b3362b; --note: #fff6e0; --note-edge: #d99a16; --best: #e3f4f0; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171a; --card: #1b1f24; --ink: #e6e9ec; --muted: #939ca6;
  --grid: #30363d; --accent: #3fc3ab; --good: #3fc3ab; --bad: #f08077; --note: #2c2616; --note-edge: #b98a26;
  --best: #16332e; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 2.2rem 1.2rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; letter-spacing: -.01em; }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .7rem; letter-spacing: -.005em; }
h3 { font-size: .95rem; margin: 0 0 .2rem; }
p { margin: .3rem 0 .8rem; max-width: 100ch; }
.lead p { margin: .1rem 0; }
.muted, caption, figcaption { color: var(--muted); font-size: .86rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(215px, 1fr)); gap: .8rem; margin: 1.4rem 0; }
.card, figure, .scroll, details { background: var(--card); border: 1px solid var(--grid); border-radius: 10px; }
.card { padding: .85rem 1rem; }
.card .name { color: var(--muted); font-size: .84rem; }
.card .value { font-size: 1.55rem; font-weight: 620; font-variant-numeric: tabular-nums; letter-spacing: -.015em; }
.card .value small { font-size: .95rem; font-weight: 450; color: var(--muted); }
.good { color: var(--good); } .bad { color: var(--bad); }
.warnings { list-style: none; padding: 0; margin: 1rem 0; display: grid; gap: .45rem; }
.warnings li { background: var(--note); border-left: 4px solid var(--note-edge); border-radius: 4px;
  padding: .5rem .8rem; font-size: .93rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 470px), 1fr)); gap: .9rem;
  align-items: start; }
figure { margin: 0; padding: .8rem .9rem .7rem; overflow-x: auto; }
figure.wide { grid-column: 1 / -1; }
figure svg { display: block; width: 100%; min-width: 400px; height: auto; }
figure svg text { font-family: inherit !important; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: .6rem .65rem 0; }
th, td { padding: .42rem .65rem; text-align: right; white-space: nowrap; }
th { font-weight: 560; color: var(--muted); border-bottom: 1px solid var(--grid); }
td.text, th.text { text-align: left; }
td.wrap { white-space: normal; min-width: 7.5rem; overflow-wrap: anywhere; }
tbody tr + tr td { border-top: 1px solid var(--grid); }
tr.lift td:first-child { font-weight: 650; }
td.best { background: var(--best); font-weight: 650; }
details { padding: .6rem .9rem; margin: .7rem 0; }
details > summary { cursor: pointer; font-weight: 560; }
details .scroll { margin-top: .6rem; border: 0; max-height: 30rem; overflow: auto; }
pre { overflow-x: auto; font-size: .82rem; white-space: pre-wrap; overflow-wrap: anywhere; }
@media print { body { background: white; } details { break-inside: avoid; } }
"""

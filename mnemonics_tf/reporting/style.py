"""The page's style sheet: light and dark, wide and narrow."""

# The colours of series keep a contrast of 3 to their page and differ for colour-blind readers too:
# Okabe and Ito's, made darker or lighter; markers and dashes repeat the distinction.
STYLE = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --ink: #1c1e21; --soft: #54585f; --rule: #d5d8dd; --panel: #f5f6f8;
  --warn: #fff3d6; --warn-edge: #b26a00; --heat: 0, 114, 178;
  --c0: #0072b2; --c1: #c94f00; --c2: #00795a; --c3: #a8457f; --c4: #8a6100; --c5: #3e8ec4;
  --c6: #1c1e21;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #15171a; --ink: #e8eaed; --soft: #a9aeb6; --rule: #3a3f46; --panel: #1e2125;
    --warn: #3a2e12; --warn-edge: #f0b545; --heat: 86, 180, 233;
    --c0: #56b4e9; --c1: #ff9a4d; --c2: #2fc79a; --c3: #e8a0c8; --c4: #f0c040; --c5: #3d8fd1;
    --c6: #ffffff;
  }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 76rem; background: var(--page);
  color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .5rem 0; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .6rem; border-top: 1px solid var(--rule);
  padding-top: 1rem; }
h3 { font-size: 1rem; margin: 1rem 0 .4rem; }
p, .notes { max-width: 46rem; }
.notes { color: var(--soft); font-size: .85rem; margin: .4rem 0 1.2rem; padding-left: 0;
  list-style: none; }
.warnings { background: var(--warn); border-left: 4px solid var(--warn-edge);
  padding: .6rem 1rem;
  margin: 1rem 0; overflow-wrap: anywhere; }
.warnings ul { margin: .2rem 0; padding-left: 1.2rem; }
.figures { display: grid; gap: 1.2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); }
figure { margin: 0; max-width: 34rem; }
figcaption { font-size: .9rem; margin-bottom: .3rem; overflow-wrap: anywhere; }
svg.chart { display: block; width: 100%; height: auto; }
svg text { font: 13px system-ui, sans-serif; fill: var(--ink); }
svg .grid { stroke: var(--rule); fill: none; }
svg .line { fill: none; stroke-width: 2; }
svg .ribbon { opacity: .2; }
svg .border { fill: none; stroke: var(--rule); }
/* Without `svg` in front: copies that <use> makes have no such ancestor. */
.data { fill: none; stroke-width: 4; stroke-linecap: round; opacity: .22; }
.exemplar { stroke: var(--page); stroke-width: .8; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1rem; margin: .4rem 0;
  padding: 0;
  font-size: .9rem; }
.legend svg { vertical-align: middle; margin-right: .35rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; margin: .4rem 0;
  font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
/* A wide table scrolls; what it is stays in sight. */
caption span { display: inline-block; position: sticky; left: 0; max-width: calc(100vw - 2.2rem); }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--rule); text-align: right;
  white-space: nowrap;
  vertical-align: top; }
thead th { color: var(--soft); font-weight: 600; }
th:first-child { text-align: left; }
tbody th { font-weight: 500; white-space: normal; min-width: 8rem; }
table.text td, table.text th { text-align: left; white-space: normal; overflow-wrap: anywhere; }
details { margin: .5rem 0; }
summary { cursor: pointer; }
.bars { display: grid; grid-template-columns: minmax(6rem, 14rem) 1fr; gap: .4rem .8rem;
  align-items: center;
  max-width: 48rem; font-size: .9rem; overflow-wrap: anywhere; }
.bar { display: flex; height: 1.1rem; background: var(--panel); }
.bar i { border-right: 1px solid var(--page); }
.key { display: inline-block; width: .9rem; height: .9rem; margin-right: .35rem;
  vertical-align: -1px; }
.p0 { background: var(--c0); } .p1 { background: var(--c1); } .p2 { background: var(--c2); }
.p3 { background: var(--c3); } .p4 { background: var(--c4); } .p5 { background: var(--c5); }
.p6 { background: var(--c6); }
.strips { display: flex; flex-wrap: wrap; gap: .8rem; list-style: none; padding: 0;
  font-size: .85rem; }
.strips img { display: block; width: 12rem; image-rendering: pixelated; }
@media (max-width: 30rem) {
  table { font-size: .82rem; }
  th, td { padding: .25rem .35rem; }
  svg text { font-size: 14px; }
}
@media print { .scroll { overflow: visible; } details { display: block; } }
"""

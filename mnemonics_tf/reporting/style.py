"""The page's style sheet: light and dark, wide and narrow."""

# The colours of series keep a contrast of 3 to their page and differ for colour-blind readers too:
# Okabe and Ito's, made darker or lighter; markers and dashes repeat the distinction.
STYLE = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --ink: #1c1e21; --soft: #54585f; --rule: #d5d8dd; --panel: #f5f6f8;
  --warn: #fff3d6; --warn-edge: #b26a00; --heat: 0, 114, 178;
  --link: #00568a; --shadow: rgba(0, 0, 0, .28);
  --c0: #0072b2; --c1: #c94f00; --c2: #00795a; --c3: #a8457f; --c4: #8a6100; --c5: #3e8ec4;
  --c6: #1c1e21;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #15171a; --ink: #e8eaed; --soft: #a9aeb6; --rule: #3a3f46; --panel: #1e2125;
    --warn: #3a2e12; --warn-edge: #f0b545; --heat: 86, 180, 233;
    --link: #8cc8f5; --shadow: rgba(0, 0, 0, .75);
    --c0: #56b4e9; --c1: #ff9a4d; --c2: #2fc79a; --c3: #e8a0c8; --c4: #f0c040; --c5: #3d8fd1;
    --c6: #ffffff;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; padding: 1.2rem clamp(.9rem, 3vw, 2.4rem) 4rem; max-width: 88rem;
  background: var(--page); color: var(--ink); font: 1rem/1.55 system-ui, sans-serif;
  overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .4rem 0; letter-spacing: -.01em; }
h2 { font-size: 1.3rem; line-height: 1.25; margin: 2.6rem 0 .8rem; padding-top: 1.1rem;
  border-top: 1px solid var(--rule); }
h3 { font-size: 1.02rem; margin: 1.6rem 0 .4rem; }
p { max-width: 52rem; margin: .5rem 0; }
a { color: var(--link); }
header p, .soft { color: var(--soft); }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .35rem .5rem; padding: 0;
  margin: .9rem 0; font-size: .9rem; }
nav a { display: block; padding: .15rem .65rem; border: 1px solid var(--rule);
  border-radius: 1rem; background: var(--panel); text-decoration: none; }
nav a:hover, nav a:focus-visible { border-color: var(--link); }
.notes { max-width: 52rem; color: var(--soft); font-size: .85rem; margin: .5rem 0 1.4rem;
  padding-left: 0; list-style: none; }
.notes li { margin: .2rem 0; }
.warnings { background: var(--warn); border-left: 4px solid var(--warn-edge);
  border-radius: .2rem; padding: .7rem 1rem; margin: 1rem 0; }
.warnings ul { margin: .2rem 0; padding-left: 1.2rem; }
.figures { display: grid; gap: 1.6rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); margin: .8rem 0; }
figure { margin: 0; max-width: 40rem; min-width: 0; }
figcaption { font-size: .92rem; font-weight: 600; margin-bottom: .35rem; }
svg.chart { display: block; width: 100%; height: auto; }
svg text { font: 13px system-ui, sans-serif; fill: var(--soft); }
svg .grid { stroke: var(--rule); fill: none; }
svg .line { fill: none; stroke-width: 2; stroke-linejoin: round; }
svg .member { fill: none; stroke-width: 1; opacity: .55; }
svg .ribbon { opacity: .18; }
svg .border { fill: none; stroke: var(--rule); }
/* Without `svg` in front: copies that <use> makes have no such ancestor. */
.data { fill: none; stroke-width: 4; stroke-linecap: round; opacity: .22; }
.exemplar { stroke: var(--page); stroke-width: .8; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .25rem 1.2rem; margin: .5rem 0;
  padding: 0; font-size: .92rem; }
.legend svg { vertical-align: middle; margin-right: .4rem; }
.caption { font-weight: 600; font-size: .95rem; margin: 1.4rem 0 .35rem; }
/* A table that is too wide scrolls: a shadow stands at each side where there is more of it, and its
   first column stays in sight. */
.scroll { overflow-x: auto; max-width: 100%; width: fit-content; scrollbar-width: thin;
  background:
    linear-gradient(to right, var(--page) 30%, transparent) left / 2.5rem 100% no-repeat local,
    linear-gradient(to left, var(--page) 30%, transparent) right / 2.5rem 100% no-repeat local,
    linear-gradient(to right, var(--shadow), transparent) left / 1rem 100% no-repeat scroll,
    linear-gradient(to left, var(--shadow), transparent) right / 1rem 100% no-repeat scroll; }
.scroll:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums;
  line-height: 1.35; overflow-wrap: normal; }
th, td { padding: .35rem .75rem; border-bottom: 1px solid var(--rule); text-align: right;
  white-space: nowrap; vertical-align: top; }
thead th { color: var(--soft); font-weight: 600; border-bottom: 2px solid var(--rule);
  vertical-align: bottom; }
th:first-child { text-align: left; padding-left: .2rem; }
tbody th { font-weight: 500; white-space: normal; min-width: 11rem; max-width: 24rem;
  overflow-wrap: break-word; }
tbody tr:hover > * { background-color: var(--panel); }
td small { display: block; color: var(--soft); font-size: .82rem; }
table.text td, table.text th, table.settings td, table.paths :last-child { text-align: left;
  white-space: normal; overflow-wrap: anywhere; min-width: 9rem; }
table.settings td { min-width: 7rem; max-width: 20rem; }
details { margin: .5rem 0; }
summary { cursor: pointer; padding: .15rem 0; color: var(--link); }
summary:focus-visible { outline: 2px solid var(--link); }
.bars { display: grid; grid-template-columns: minmax(6rem, max-content) 1fr; gap: .4rem .8rem;
  font-size: .9rem; max-width: 62rem; align-items: center; }
.bar { display: flex; height: 1.1rem; background: var(--panel); border-radius: .2rem;
  overflow: hidden; }
.key { display: inline-block; width: .8rem; height: .8rem; margin-right: .4rem;
  border-radius: .15rem; vertical-align: -.05rem; }
.p0 { background: var(--c0); } .p1 { background: var(--c1); } .p2 { background: var(--c2); }
.p3 { background: var(--c3); } .p4 { background: var(--c4); } .p5 { background: var(--c5); }
.p6 { background: var(--c6); }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; margin: .8rem 0 1.4rem; }
.cards figure { background: var(--panel); border: 1px solid var(--rule); border-radius: .4rem;
  padding: .6rem .8rem .8rem; width: min-content; min-width: 8.5rem; max-width: 100%; }
.cards img { display: block; width: 100%; image-rendering: pixelated; border-radius: .15rem; }
.cards .row { display: flex; gap: .4rem; }
.cards .row img { width: 3.5rem; }
.moves { display: grid; grid-template-columns: repeat(3, 4rem) minmax(4.2rem, max-content);
  gap: .35rem .5rem; align-items: center; font-size: .85rem;
  font-variant-numeric: tabular-nums; }
/* A word is never broken to fit below its picture. */
.moves span { overflow-wrap: normal; white-space: nowrap; }
.moves span:nth-child(-n + 4) { color: var(--soft); font-size: .78rem; }
.moves small { color: var(--soft); }
@media (max-width: 30rem) {
  h1 { font-size: 1.4rem; }
  table { font-size: .82rem; }
  th, td { padding: .3rem .45rem; }
  tbody th { min-width: 6rem; max-width: 36vw; }
  svg text { font-size: 15px; }
  .bars { grid-template-columns: 1fr; gap: .15rem; }
  .bar { margin-bottom: .5rem; }
}
@media (min-width: 64rem) { svg text { font-size: 10.5px; } }
@media (min-width: 30.01rem) {
  .scroll th:first-child { position: sticky; left: 0; background-color: var(--page); z-index: 1; }
}
@media print { .scroll { overflow: visible; } details { display: block; } nav { display: none; } }
"""

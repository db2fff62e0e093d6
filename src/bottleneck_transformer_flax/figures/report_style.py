"""How the page about a run looks."""

STYLE = """\
:root {
  color-scheme: light dark;
  --paper: #fff; --ink: #222; --quiet: #666; --line: #ddd; --blue: #0072b2; --note: #fff4e5;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #16181b; --ink: #e4e4e4; --quiet: #a0a0a0; --line: #3a3d42; --blue: #56b4e9;
    --note: #3a2d18;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere;
}
main { max-width: 62rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 0.6rem; }
header p, section > p { color: var(--quiet); margin: 0.3rem 0 1rem; }
.note { background: var(--note); border-radius: 0.4rem; padding: 0.6rem 0.9rem; margin: 0.6rem 0; }
.headline {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr));
  gap: 0.8rem; margin: 1.2rem 0;
}
.headline div { border: 1px solid var(--line); border-radius: 0.4rem; padding: 0.6rem 0.9rem; }
.headline dt, small { color: var(--quiet); font-size: 0.8rem; }
.headline dd { margin: 0; font-size: 1.4rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.8rem 0.25rem 0; text-align: left; }
tr { border-bottom: 1px solid var(--line); }
th { color: var(--quiet); font-weight: normal; vertical-align: top; }
.facts th { width: 35%; }
.bar { display: block; min-width: 4rem; height: 0.7rem; background: var(--line); }
.bar span { display: block; height: 100%; background: var(--blue); }
.bar, .bar span { border-radius: 0.2rem; print-color-adjust: exact; }
.picture { overflow-x: auto; background: #fff; border-radius: 0.4rem; }
.picture img { display: block; width: 100%; min-width: 40rem; max-width: 62rem; margin: 0 auto; }
.mistakes { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: 1rem; }
.mistakes figure { margin: 0; break-inside: avoid; }
.mistakes img { width: 100%; aspect-ratio: 1; object-fit: contain; background: var(--line); }
.mistakes figcaption { font-size: 0.9rem; line-height: 1.35; }
.mistakes small { display: block; }
details { margin-top: 2.5rem; }
summary { cursor: pointer; font-size: 1.2rem; font-weight: bold; }
@media print {
  h2 { break-after: avoid; }
  tr, .picture { break-inside: avoid; }
  .picture img { min-width: 0; }
}
"""

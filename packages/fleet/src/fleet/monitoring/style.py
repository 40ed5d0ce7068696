"""How the page looks: one style sheet, light and dark by what the browser asks for, nothing from the internet."""

CSS = """
:root { --bg:#f6f7f9; --card:#fff; --ink:#1d2430; --quiet:#687386; --line:#e3e7ee; --good:#1f7a4d; --goodbg:#e3f4ea;
  --warn:#8a5a00; --warnbg:#fdf1d7; --bad:#a3262a; --badbg:#fbe6e6; --run:#1d5fae; --runbg:#e4eefb; }
@media (prefers-color-scheme: dark) { :root { --bg:#12161d; --card:#1a202a; --ink:#e4e8ef; --quiet:#97a2b4;
  --line:#2b3442; --good:#6fd3a1; --goodbg:#16372a; --warn:#f0c26a; --warnbg:#3a2f14; --bad:#f29a9c; --badbg:#421d20;
  --run:#8dbdf5; --runbg:#182f4b; } }
body { background:var(--bg); color:var(--ink); font:14px/1.45 system-ui,-apple-system,"Segoe UI",sans-serif; }
.nicegui-content { padding:0; display:block; }
.top { display:flex; align-items:baseline; gap:12px; padding:14px 20px; border-bottom:1px solid var(--line);
  background:var(--card); flex-wrap:wrap; }
.top b { font-size:17px; }
.grid { display:grid; grid-template-columns:minmax(340px,420px) minmax(0,1fr); gap:16px; padding:16px 20px;
  align-items:start; }
@media (max-width:900px) { .grid { grid-template-columns:minmax(0,1fr); } }
.column { display:flex; flex-direction:column; gap:16px; min-width:0; }
.panel { background:var(--card); border:1px solid var(--line); border-radius:8px; padding:12px 14px; min-width:0;
  overflow:hidden; }
.panel h2 { margin:0 0 6px; font-size:12px; line-height:18px; font-weight:600; letter-spacing:.06em;
  text-transform:uppercase; color:var(--quiet); }
.panel p { margin:4px 0; }
table { width:100%; border-collapse:collapse; }
td { padding:4px 8px 4px 0; vertical-align:top; border-top:1px solid var(--line); overflow-wrap:anywhere; }
tr:first-child td { border-top:0; }
td:last-child { padding-right:0; }
.parts td:nth-child(2) { width:30%; }
.parts .why td { border-top:0; padding-top:0; }
.rows { font-size:12.5px; }
.num { font-variant-numeric:tabular-nums; white-space:nowrap; }
.parts .num { text-align:right; white-space:normal; width:24%; font-size:12px; }
.quiet { color:var(--quiet); font-size:12px; }
.id { font-family:ui-monospace,Menlo,Consolas,"DejaVu Sans Mono",monospace; font-size:12px; }
.reason { color:var(--bad); font-size:12px; overflow-wrap:anywhere; }
.stale { background:var(--badbg); color:var(--bad); border-radius:6px; padding:6px 8px; font-size:12px;
  overflow-wrap:anywhere; }
.pill { display:inline-block; white-space:nowrap; border-radius:9px; padding:0 8px; font-size:12px; line-height:18px;
  font-weight:600; background:var(--line); color:var(--quiet); }
.pill.ready,.pill.completed { background:var(--goodbg); color:var(--good); }
.pill.running { background:var(--runbg); color:var(--run); }
.pill.not_ready,.pill.waiting,.pill.missing { background:var(--warnbg); color:var(--warn); }
.pill.unreachable,.pill.failed { background:var(--badbg); color:var(--bad); }
.council { padding:5px 0; border-top:1px solid var(--line); } .council:first-child { border-top:0; }
.seat { display:inline-block; margin:3px 6px 0 0; padding:1px 7px; border:1px solid var(--line); border-radius:6px;
  font-family:ui-monospace,Menlo,Consolas,"DejaVu Sans Mono",monospace; font-size:12px; }
.seat i { color:var(--quiet); } .seat.running { border-color:var(--run); } .seat.running i { color:var(--run); }
.card { border-top:1px solid var(--line); padding:10px 0; } .first .card { border-top:0; padding-top:2px; }
.head { display:flex; justify-content:space-between; gap:8px; align-items:baseline; }
.head b { overflow-wrap:anywhere; }
.steps { display:grid; grid-template-columns:repeat(8,minmax(0,1fr)); gap:4px; margin:8px 0; }
@media (max-width:1250px) { .steps { grid-template-columns:repeat(4,minmax(0,1fr)); } }
.step { border-radius:6px; padding:3px 6px; font-size:12px; background:var(--bg); color:var(--quiet);
  overflow:hidden; white-space:nowrap; }
.step i { font-style:normal; opacity:.6; } .step b { display:block; font-weight:500; font-variant-numeric:tabular-nums; }
.step.done { background:var(--goodbg); color:var(--good); }
.phases,.checks { display:flex; flex-wrap:wrap; gap:4px; margin:4px 0; }
.outcome { margin:4px 0 8px; overflow-wrap:anywhere; } .outcome.bad { color:var(--bad); }
.agents { display:grid; grid-template-columns:repeat(auto-fit,minmax(210px,1fr)); gap:8px; }
.agent { border:1px solid var(--line); border-radius:6px; padding:6px 8px; min-width:0; }
.tail { height:84px; overflow:hidden; display:flex; flex-direction:column-reverse; margin-top:4px; }
.tail div { margin-bottom:auto; white-space:pre-wrap; overflow-wrap:anywhere; font-size:12px; line-height:1.4; }
.events td:nth-child(2) { width:34%; }
.events tr.bad td { background:var(--badbg); color:var(--bad); }
.filter { width:100%; margin:0 0 6px; }
.filter .q-field__native, .filter .q-placeholder { color:var(--ink); }
"""

//! How the page looks, and what it tells when it is pointed at.

/// Light and dark, on paper and on a small screen.
pub const CSS: &str = "
:root{color-scheme:light dark;--back:#fff;--text:#1b1f24;--dim:#5c6670;--line:#d5dade;--ok:#2b6cb0;
--refused:#b7791f;--unknown:#9b2c2c;--good:#22744a;--bad:#b3261e;--band:#7c3aed;--soft:#f4f6f8}
@media (prefers-color-scheme:dark){:root{--back:#14171a;--text:#e6e9ec;--dim:#9aa5af;--line:#353c43;
--ok:#63a4e8;--refused:#e0a84a;--unknown:#f08a84;--good:#5cc98d;--bad:#ff8a80;--band:#b79cff;--soft:#1d2226}}
*{box-sizing:border-box}body{margin:0 auto;max-width:1180px;padding:1.2rem;background:var(--back);
color:var(--text);font:15px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}
h1{margin:.1rem 0 .4rem;font-size:1.7rem}h2{font-size:1.15rem;margin:1.6rem 0 .5rem}
.kind,footer,small,#tip{color:var(--dim)}.kind{margin:0}footer{margin-top:2rem}
.verdict{border-left:6px solid;padding:.5rem .9rem;background:var(--soft);font-size:1.1rem}
.verdict strong{font-size:1.5rem;text-transform:uppercase;margin-right:.6rem}.verdict span{color:var(--text)}
.kept{color:var(--good)}.broken{color:var(--bad);font-weight:700}.open{color:var(--dim)}
.wide{overflow-x:auto}svg{display:block;width:100%;min-width:820px;height:auto}
table{border-collapse:collapse;width:100%}th,td{text-align:left;vertical-align:top;padding:.35rem .6rem;
border-bottom:1px solid var(--line)}td:nth-child(2){white-space:nowrap}th{font-weight:600}
.numbers td,.numbers th:not(:first-child){text-align:right;font-variant-numeric:tabular-nums}
pre{background:var(--soft);padding:.7rem;overflow-x:auto}
text{font-size:11px;fill:var(--text)}.name{font-weight:600}.unit{fill:var(--dim);font-size:10px}
.end{text-anchor:end}.middle{text-anchor:middle}.fault{fill:var(--band);font-weight:600}.in{font-size:10px}
.ok{fill:var(--ok);opacity:.85}.refused{fill:var(--refused)}.unknown{fill:url(#hatch)}.stripe{fill:var(--unknown)}
.band{fill:var(--band);opacity:.13}g:has(.band) .in{display:none}.pin{stroke:var(--band);fill:none;opacity:.5}
.phase{stroke:var(--dim);stroke-dasharray:2 4;fill:none}.grid,.axis{stroke:var(--line);fill:none}
.p50{fill:none;stroke:var(--ok);stroke-width:2.2}.p99{fill:none;stroke:var(--text);stroke-dasharray:5 3}
.max{fill:none;stroke:var(--unknown);stroke-width:1.6;stroke-dasharray:1 3;stroke-linecap:round}
.ready{fill:var(--good);opacity:.35}.alive{fill:var(--ok);opacity:.35}.suspect{fill:var(--refused);opacity:.55}
.down{fill:var(--bad);opacity:.6}.draining{fill:var(--band);opacity:.45}.other{fill:var(--line)}
#hair{stroke:var(--text);fill:none;opacity:.6;pointer-events:none}#tip{min-height:1.5em;margin:.3rem 0}
@media (max-width:600px){body{padding:.7rem}h1{font-size:1.3rem}.verdict strong{font-size:1.2rem}}
@media print{.wide{overflow:visible}svg{min-width:0}#tip{display:none}section{break-inside:avoid}}
";

/// Tells the figures of the time that is pointed at. Without it the page says all that it says otherwise.
pub const SCRIPT: &str = "
const b=JSON.parse(document.getElementById('bins').textContent),s=document.getElementById('time'),
t=document.getElementById('tip'),h=document.getElementById('hair'),n=b.refused.length;
s.addEventListener('pointermove',e=>{const r=s.getBoundingClientRect(),x=(e.clientX-r.left)/r.width*1000;
if(118>x)return;const i=Math.min(n-1,Math.floor((x-118)/882*n)),k=1e6/b.bin_us,l=b.latency[i];
h.setAttribute('d','M'+x.toFixed(1)+' 0V'+s.viewBox.baseVal.height);
t.textContent=(i*b.bin_us/1e6).toFixed(1)+' s: '+b.kinds.filter(q=>q[1][i]).map(q=>q[0]+' '+
Math.round(q[1][i]*k)+'/s').concat(b.refused[i]?['refused '+b.refused[i]]:[],b.unknown[i]?['unknown '+b.unknown[i]]:[],
l?['p50 '+l[0]+' ms','p99 '+l[1]+' ms','longest '+l[2]+' ms']:[]).join(', ')});
";

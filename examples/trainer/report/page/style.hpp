// The page's style sheet: one column that fits a phone, wide tables that scroll inside their box, light and dark.
// Fonts are the reader's own; nothing is fetched.
#pragma once

namespace trainer {

inline constexpr char const* page_style = R"(
:root{color-scheme:light dark;--ink:#1c2733;--soft:#526070;--rule:#dde3ea;--page:#fff;--panel:#f4f6f8;--causal:#dfe5eb;--bound:#b42318;--good:#17693a}
@media (prefers-color-scheme:dark){:root{--ink:#e8edf2;--soft:#a9b5c1;--rule:#33404d;--page:#14191f;--panel:#1e252d;--causal:#33404d;--bound:#ff8a7a;--good:#6fd49a}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;color:var(--ink);background:var(--page);
 max-width:980px;margin:1.5rem auto;padding:0 1rem;overflow-wrap:break-word}
h1{font-size:1.6rem;line-height:1.2;margin:0 0 .4rem}h2{font-size:1.2rem;margin:2.2rem 0 .3rem}h3{font-size:1rem;margin:1.8rem 0 .2rem}
p{margin:.4rem 0}.lead,.note,figcaption,dd{color:var(--soft)}.note,dl,ul{font-size:.9rem}
.verdict{font-weight:600;color:var(--good)}.verdict.off{color:var(--bound)}
svg{width:100%;height:auto;display:block}svg text{font-size:12px;fill:var(--soft)}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,320px),1fr));gap:1rem 1.6rem}
.charts>section{min-width:0;max-width:480px}.charts h3{margin-top:.8rem}
.grid{stroke:var(--rule);stroke-width:1}.bound{stroke:var(--bound);stroke-width:1.5;stroke-dasharray:5 3}svg .bound-name{fill:var(--bound)}
.ground{fill:var(--panel)}.causal{fill:var(--causal)}.frame{fill:none;stroke:var(--ink);stroke-width:.7;opacity:.55}
.band{height:26px;margin:.4rem 0;shape-rendering:crispEdges}.boundary{stroke:var(--ink);stroke-width:1.5;vector-effect:non-scaling-stroke}
.scroll{overflow-x:auto;margin:.6rem 0;border:1px solid var(--rule);border-radius:4px}
table{border-collapse:collapse;width:100%;font-size:.85rem;font-variant-numeric:tabular-nums}
th,td{padding:.35rem .5rem;text-align:right;border-bottom:1px solid var(--rule);white-space:nowrap;background:var(--page)}
tr:last-child>*{border-bottom:0}
th{font-weight:400}tr.head th{font-weight:600;color:var(--soft);vertical-align:bottom}
th:first-child{text-align:left;position:sticky;left:0}th[scope=row]{white-space:normal;min-width:6.5rem}
tr.type th{white-space:normal;position:static;color:var(--soft);padding-top:.8rem}
tr.type span{display:inline-block;position:sticky;left:.5rem;max-width:min(60rem,calc(100vw - 3.2rem))}
tr.type b{color:var(--ink)}tr.one>*{background:var(--panel)}
ul{list-style:none;margin:.3rem 0;padding:0}.legend{font-size:.9rem;color:var(--soft)}.legend b{font-weight:600;color:var(--ink)}
.legend span{margin-right:1.1rem;white-space:nowrap}
.legend i{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin-right:.4em}
dt{font-weight:600;margin-top:.7rem}dd{margin:0}
.maps{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(44%,190px),1fr));gap:.8rem}.maps figure{margin:.3rem 0;max-width:230px}
figcaption{font-size:.85rem;text-align:center;margin-top:.3rem}
)";

} // namespace trainer

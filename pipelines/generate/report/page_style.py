"""The page's style sheet: Okabe and Ito's colours, brighter where the ground is dark."""

STYLE = """
:root { --ink: #1d1d1f; --ground: #ffffff; --panel: #f4f5f7; --line: #d5d8dd; --soft: #5b6169;
  --blue: #0072b2; --orange: #d98e00; --green: #009e73; --pink: #cc79a7; --sky: #56b4e9; --red: #c44e00;
  --yellow: #c9b800; --grey: #8a8f98; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --ground: #16181c; --panel: #22262c;
  --line: #3b4048; --soft: #a3a9b2; --blue: #4aa8e0; --orange: #f0b030; --red: #ff8a4c; --yellow: #f0e442;
  --grey: #8d939c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 54rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .4rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; overflow-wrap: anywhere; }
p { margin: .3rem 0; color: var(--soft); } .path { overflow-wrap: anywhere; }
.status { font-size: .9rem; padding: .15rem .6rem; border-radius: 1rem; vertical-align: middle;
  border: 2px solid var(--red); color: var(--red); }
.status.done { border-color: var(--green); color: var(--green); }
.reason { color: var(--red); font-weight: 600; overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.8rem, 1fr)); gap: .7rem;
  margin-top: 1.2rem; }
.tile { background: var(--panel); border-radius: .5rem; padding: .6rem .8rem; }
.name, .note { font-size: .8rem; color: var(--soft); } .value { font-size: 1.25rem; font-weight: 600;
  overflow-wrap: anywhere; }
.plot { width: 100%; height: auto; display: block; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 500; } .num { text-align: right; font-variant-numeric: tabular-nums; }
.clip { display: inline-block; max-width: 18rem; overflow: hidden; text-overflow: ellipsis;
  vertical-align: bottom; }
.bar { display: inline-block; width: 8rem; height: .7rem; background: var(--panel); text-align: left; }
.bar i { display: block; height: 100%; background: var(--blue); }
.figure { display: inline-block; min-width: 4rem; }
dl { display: grid; grid-template-columns: minmax(9rem, 15rem) 1fr; gap: .15rem 1rem; margin: .4rem 0;
  font-size: .9rem; } dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
figure { margin: .6rem 0; padding: .6rem .8rem; background: var(--panel); border-radius: .5rem; }
figcaption { font-size: .8rem; color: var(--soft); } .prompt, .text { white-space: pre-wrap;
  overflow-wrap: anywhere; } .text { color: var(--ink); }
code { background: var(--panel); padding: 0 .3rem; border-radius: .2rem; }
ul { margin: .3rem 0; padding-left: 1.2rem; } li { overflow-wrap: anywhere; }
.split { display: flex; height: 1.4rem; border-radius: .3rem; overflow: hidden; margin: .6rem 0; }
.split i { border-right: 1px solid var(--ground); }
.legend { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .2rem 1.4rem; font-size: .9rem; }
.legend i { display: inline-block; width: .8rem; height: .8rem; margin-right: .4rem; border-radius: .15rem; }
i.blue { background: var(--blue); } i.orange { background: var(--orange); }
i.green { background: var(--green); } i.pink { background: var(--pink); } i.sky { background: var(--sky); }
i.red { background: var(--red); } i.yellow { background: var(--yellow); } i.grey { background: var(--grey); }
@media print { * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  main { max-width: none; padding: 0; } .wide { overflow: visible; } section { break-inside: avoid-page; }
  section:last-child { break-inside: auto; } }
"""

"use strict";
// The theme, the selection that survives a table's renewal, and the charts.
const root = document.documentElement;
const stored = localStorage.getItem("theme");
if (stored) root.dataset.theme = stored;
const isDark = () => root.dataset.theme
  ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
document.getElementById("theme").addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  localStorage.setItem("theme", root.dataset.theme);
  draw();
});

const selected = new Set();
const boxes = () => document.querySelectorAll('#rows input[name="job"]');
function select(box, on) {
  box.checked = on;
  on ? selected.add(box.value) : selected.delete(box.value);
}
document.addEventListener("change", ({ target }) => {
  if (target.id === "all") boxes().forEach((box) => select(box, target.checked));
  else if (target.name === "job" && target.type === "checkbox") select(target, target.checked);
  else return;
  document.getElementById("selected").textContent = selected.size ? `${selected.size} selected` : "";
});
document.getElementById("tag")?.addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault();
  document.getElementById("add-tag").click();
});
document.addEventListener("htmx:afterSwap", () => {
  for (const box of boxes()) box.checked = selected.has(box.value);
  const log = document.getElementById("log");
  if (log && document.getElementById("follow")?.checked) log.scrollTop = log.scrollHeight;
});
// A row that has the focus is not replaced under the keyboard.
document.addEventListener("htmx:beforeRequest", (event) => {
  if (event.target.id === "rows" && event.target.contains(document.activeElement))
    event.preventDefault();
});
setInterval(() => {
  if (document.getElementById("follow")?.checked)
    document.getElementById("log").previousElementSibling.requestSubmit();
}, 2000);

const box = document.getElementById("charts");
const field = (id) => document.getElementById(id);
const COLOURS = ["#2f7de1", "#e0662b", "#2f9e57", "#a24bd1", "#c9367a", "#0f99a8", "#a07a00", "#6a6fdb"];
let charts = [], plots = [];

function short(value) {
  if (value === null || value === undefined) return "";
  const size = Math.abs(value);
  return size && (size < 1e-4 || size >= 1e6)
    ? value.toExponential(2).replace(/\.?0+e/, "e") : String(Number(value.toPrecision(4)));
}

function smoothed(values, weight) {
  // An exponential mean whose beginning is not drawn towards zero.
  let mean = 0, share = 0;
  return values.map((value) => {
    if (value === null) return null;
    mean = mean * weight + (1 - weight) * value;
    share = share * weight + (1 - weight);
    return mean / share;
  });
}

function draw() {
  if (!box || !window.uPlot) return;
  plots.forEach((plot) => plot.destroy());
  plots = [];
  box.replaceChildren();
  const weight = Number(field("smooth").value), log = field("logarithmic").checked;
  const style = getComputedStyle(root);
  const ink = style.getPropertyValue("--soft"), line = style.getPropertyValue("--line");
  // All places first: how wide a chart is depends on how many there are.
  const holders = charts.map(({ title }) => {
    const holder = document.createElement("section");
    holder.className = "chart";
    const head = document.createElement("h3");
    head.textContent = title;
    holder.append(head);
    box.append(holder);
    return holder;
  });
  for (const [place, { curves }] of charts.entries()) {
    const holder = holders[place];
    const tables = [], bests = [], series = [{ label: field("axis").value }];
    curves.forEach((curve, index) => {
      const colour = COLOURS[index % COLOURS.length];
      const label = box.dataset.jobs.includes(" ") ? `${curve.name} ${curve.metric}` : curve.metric;
      const points = curve.x.map((x, i) => [x, curve.y[i]]).filter(([x]) => x !== null);
      const xs = points.map(([x]) => x);
      const ys = points.map(([, y]) => (log && y <= 0 ? null : y));
      tables.push([xs, ys, ...(weight ? [smoothed(ys, weight)] : [])]);
      if (weight) series.push({ label: `${label}, raw`, class: "raw", stroke: colour + "55", width: 1, spanGaps: true });
      series.push({ label, value: (_, y) => short(y), stroke: colour, width: 2, spanGaps: true });
      const known = ys.filter((y) => y !== null);
      if (/loss/.test(curve.metric) && known.length)
        bests.push(`${label} ${short(known.reduce((a, b) => Math.min(a, b)))}`);
    });
    if (bests.length) {
      const best = document.createElement("p");
      best.textContent = `Best: ${bests.join(", ")}`;
      holder.append(best);
    }
    const axis = { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 } };
    plots.push(new uPlot({
      width: holder.clientWidth - 20, height: 240, series, axes: [{ ...axis, label: field("axis").value, size: 26, labelSize: 18, labelFont: "12px system-ui", font: "12px system-ui" }, { ...axis, font: "12px system-ui", size: 64, values: (_, ticks) => ticks.map(short) }],
      scales: { x: { time: false }, y: { distr: log ? 3 : 1 } },
    }, uPlot.join(tables), holder));
  }
  if (!charts.length) box.textContent = "No curve yet.";
}

async function load() {
  if (!box) return;
  const query = new URLSearchParams(box.dataset.jobs.split(" ").map((id) => ["job", id]));
  query.append("x", field("axis").value);
  const answer = await fetch(`/curves?${query}`);
  if (!answer.ok) return;
  charts = await answer.json();
  draw();
}

if (box) {
  field("axis").addEventListener("change", load);
  field("smooth").addEventListener("input", draw);
  field("logarithmic").addEventListener("change", draw);
  addEventListener("resize", draw);
  load();
  if (box.dataset.live) {
    let waits = false;
    const later = () => {
      if (waits) return;
      waits = true;
      setTimeout(() => { waits = false; load(); }, 1000);
    };
    const stream = new EventSource(`/api/training/jobs/${box.dataset.live}/events`);
    stream.addEventListener("metrics", later);
    stream.addEventListener("status", later);
  }
}

"use strict";
(() => {
const SVG = "http://www.w3.org/2000/svg";
const draw = (node, name, attributes) => {
  const made = node.appendChild(document.createElementNS(SVG, name));
  Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
  return made;
};
const text = (value) => {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(3).replace(/\.?0+e/, "e") : String(+value.toPrecision(5));
};

// Fraction of an axis [low, high, scale] at a value, and the value at a fraction.
const fraction = ([low, high, scale], value) => {
  if (scale === "linear") return (value - low) / (high - low);
  if (scale === "log") return Math.log(value / low) / Math.log(high / low);
  const rising = scale[0] < scale[scale.length - 1];
  let i = 1;
  while (i < scale.length - 1 && (rising ? scale[i] < value : scale[i] > value)) i++;
  return (i - 1 + (value - scale[i - 1]) / (scale[i] - scale[i - 1])) / (scale.length - 1);
};

// ---- toggling: hide every element of a series within the scope of its legend --------------------------------------

const scopeOf = (node) => node.closest("[data-scope]") || node.closest("figure") || document;
const legends = (scope) => [...scope.querySelectorAll("button[data-toggle]")];
const keysOf = (button) => button.dataset.toggle.split(" ");
const show = (scope, buttons) => {
  const listed = new Set(legends(scope).flatMap(keysOf)), keys = new Set(buttons.flatMap(keysOf));
  legends(scope).forEach((button) => button.setAttribute("aria-pressed", buttons.includes(button)));
  scope.querySelectorAll("[data-series]").forEach((node) => node.classList.toggle("off", listed.has(node.dataset.series) && !keys.has(node.dataset.series)));
  scope.querySelectorAll(".plot").forEach((plot) => plot.dispatchEvent(new Event("leave")));
};
// An entry of a legend toggles all series with the same name; its keys are separated by spaces.
const toggle = (scope, key, alone) => {
  const all = legends(scope), own = all.find((button) => keysOf(button).includes(key));
  if (!own) return;
  const now = all.filter((button) => button.getAttribute("aria-pressed") === "true");
  if (!alone) show(scope, all.filter((button) => now.includes(button) !== (button === own)));
  else show(scope, now.length === 1 && now[0] === own ? all : [own]);
};
document.querySelectorAll("button[data-toggle]").forEach((button) => {
  const scope = scopeOf(button);
  button.addEventListener("click", () => toggle(scope, keysOf(button)[0], false));
  button.addEventListener("dblclick", () => toggle(scope, keysOf(button)[0], true));
});

// ---- values: the nearest point of each visible series ----------------------------------------------------------------

const prepare = (plot, shared) => {
  const svg = plot.querySelector("svg"), own = JSON.parse(svg.querySelector("metadata").textContent);
  const data = { ...shared, ...own };
  const title = svg.querySelector("title");
  svg.setAttribute("aria-label", title.textContent);  // a title element would cover the values with a tooltip
  svg.removeAttribute("aria-labelledby");
  title.remove();
  svg.querySelectorAll('[data-role="label"]').forEach((node) => {
    node.addEventListener("click", () => toggle(scopeOf(node), node.dataset.series, false));
  });
  if (!data.series || !data.series.length) return data;
  // Values beyond an axis are marked at its edge; curves keep their positions along x.
  const held = (share) => Number.isFinite(share) ? Math.min(1, Math.max(0, share)) : share;
  const place = (axis, x, y, rising) => {
    const [left, top, right, bottom] = axis.box, along = fraction(axis.x, x);
    return [left + (rising ? along : held(along)) * (right - left), bottom - held(fraction(axis.y, y)) * (bottom - top)];
  };
  const series = data.series.map((item) => {
    const axis = data.axes[item.a], xs = data.xs[item.x];
    const points = xs.map((x, i) => ({ x, y: item.y[i] })).filter((p) => p.x !== null && p.y !== null);
    const rising = points.every((p, i) => i === 0 || p.x >= points[i - 1].x);
    points.forEach((p) => { p.at = place(axis, p.x, p.y, rising && points.length > 1); });
    return { ...item, points: points.filter((p) => p.at.every(Number.isFinite)), rising };
  });
  const visible = (index) => {
    const hidden = new Set([...svg.querySelectorAll(".off[data-series]")].map((node) => node.dataset.series));
    return series.filter((item) => item.a === index && item.points.length && !hidden.has(item.k));
  };
  const marks = draw(svg, "g", { "pointer-events": "none" });
  const tip = plot.appendChild(Object.assign(document.createElement("div"), { className: "tip", hidden: true }));
  tip.setAttribute("role", "status");
  const nearest = (item, x, y, flat) => {
    let best = null, least = Infinity;
    item.points.forEach((p) => {
      if (flat && item.s && p.at[0] > x + 1e-6 && best) return;
      const distance = flat ? Math.abs(p.at[0] - x) : Math.hypot(p.at[0] - x, p.at[1] - y);
      if (distance < least) { least = distance; best = p; }
    });
    return { item, point: best, distance: least };
  };
  const leave = () => { marks.replaceChildren(); tip.hidden = true; state = null; };
  let state = null;
  const read = (index, x, y) => {
    const axis = data.axes[index], shown = visible(index);
    if (!shown.length) return leave();
    const flat = shown.every((item) => item.rising);
    let found = shown.map((item) => nearest(item, x, y, flat)).sort((a, b) => a.distance - b.distance);
    const lead = found[0].point;
    if (flat) found = found.filter((hit) => hit.item.s || hit.distance <= found[0].distance + 6).sort((a, b) => a.point.at[1] - b.point.at[1]);
    else found = found.slice(0, 1);
    state = { index, x: lead.at[0], y: lead.at[1], flat };
    marks.replaceChildren();
    if (flat) draw(marks, "line", { x1: lead.at[0], x2: lead.at[0], y1: axis.box[1], y2: axis.box[3], style: "stroke:var(--muted);stroke-width:.7;stroke-dasharray:2 2" });
    found.forEach(({ item, point }) => draw(marks, "circle", { cx: point.at[0], cy: point.at[1], r: 2.8, style: `fill:${item.c};stroke:var(--paper)` }));
    tip.replaceChildren();
    const line = (parent, tag, content) => parent.appendChild(Object.assign(document.createElement(tag), { textContent: content }));
    line(tip, "b", `${axis.xl || "x"} ${text(lead.x)}` + (flat ? "" : `, ${axis.yl || "y"} ${text(lead.y)}`));
    found.slice(0, 16).forEach(({ item, point }) => {
      const row = tip.appendChild(document.createElement("div"));
      row.appendChild(document.createElement("i")).style.background = item.c;
      line(row, "em", item.n).style.fontStyle = "normal";
      if (flat) line(row, "span", text(point.y));
    });
    tip.hidden = false;
    const box = svg.getBoundingClientRect(), scale = box.width / svg.viewBox.baseVal.width;
    const wide = tip.offsetWidth, px = lead.at[0] * scale, right = px + 14 + wide <= box.width;
    tip.style.left = `${Math.max(0, right ? px + 14 : Math.min(px - wide - 14, box.width - wide))}px`;
    tip.style.top = `${Math.max(0, Math.min((flat ? axis.box[1] : lead.at[1]) * scale, box.height - tip.offsetHeight))}px`;
    return undefined;
  };
  const point = (event) => {
    const box = svg.getBoundingClientRect(), scale = box.width / svg.viewBox.baseVal.width;
    const x = (event.clientX - box.left) / scale, y = (event.clientY - box.top) / scale;
    const index = data.axes.findIndex(({ box: [left, top, right, bottom] }) => x >= left - 6 && x <= right + 6 && y >= top - 6 && y <= bottom + 6);
    if (index < 0) leave(); else read(index, x, y);
  };
  plot.addEventListener("pointermove", point);
  plot.addEventListener("pointerdown", point);
  plot.addEventListener("pointerleave", leave);
  plot.addEventListener("leave", leave);
  plot.addEventListener("blur", leave);
  plot.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key], other = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (event.key === "Escape") leave();
    if (!step && !other) return;
    event.preventDefault();
    const count = data.axes.length, index = ((state ? state.index : 0) + (other || 0) + count) % count;
    const order = visible(index).flatMap((item) => item.points).sort((a, b) => a.at[0] - b.at[0]);
    if (!order.length) return;
    if (!state || other) return read(index, ...order[0].at);
    const beyond = order.filter((p) => step * (p.at[0] - state.x) > 1e-6);
    const next = step > 0 ? beyond[0] : beyond[beyond.length - 1];
    if (next) read(index, ...next.at);
  });
  return data;
};
document.querySelectorAll("figure").forEach((figure) => {
  let shared = {};
  figure.querySelectorAll(".plot").forEach((plot) => { shared = { ...prepare(plot, shared) }; delete shared.axes; });
});

document.querySelectorAll(".copy").forEach((button) => button.addEventListener("click", () => {
  const area = document.body.appendChild(Object.assign(document.createElement("textarea"), { value: button.nextElementSibling.textContent }));
  area.select();
  document.execCommand("copy");  // the clipboard API can be unavailable on file:// pages
  area.remove();
  button.textContent = "copied";
  setTimeout(() => { button.textContent = "copy"; }, 1200);
}));
})();

// What the page does beyond showing itself: interactive figures, sorting and filtering of tables, and looking into items.
"use strict";
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const make = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value !== null) node.setAttribute(name, value);
    }
    node.append(...children);
    return node;
  };
  document.documentElement.classList.add("js");

  // Figures. Their colours follow those of the page.
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const look = () => {
    const style = getComputedStyle(document.documentElement);
    const [ink, line] = ["--ink", "--line"].map((name) => style.getPropertyValue(name).trim());
    const axis = { labelColor: ink, titleColor: ink, gridColor: line, domainColor: line, tickColor: line, labelLimit: 220 };
    return { background: "transparent", axis, title: { color: ink, fontSize: 12, limit: 300 },
      legend: { labelColor: ink, titleColor: ink }, view: { stroke: line }, text: { color: ink }, rule: { color: ink } };
  };
  const draw = (place, spec) =>
    vegaEmbed(place, spec, { renderer: "svg", actions: false, ast: false, config: look(), tooltip: { theme: dark.matches ? "dark" : "light" } });
  const panels = read("panels");
  const drawAll = () => {
    for (const [id, specs] of Object.entries(panels)) {
      const section = document.getElementById(id), place = section.querySelector(".panels");
      place.replaceChildren(...specs.map(() => make("div")));
      section.querySelector("figure").classList.add("drawn");
      Promise.all(specs.map((spec, at) => draw(place.children[at], spec))).catch((error) => {
        section.querySelector("figure").classList.remove("drawn"); // the picture is shown instead
        console.error(error);
      });
    }
  };
  drawAll();
  dark.addEventListener("change", drawAll);

  // Tables.
  const number = (text) => {
    const found = text.replaceAll(",", "").match(/^[<†]? ?([+-]?\d+(\.\d+)?(e[+-]?\d+)?)/i);
    return found ? Number(found[1]) : NaN;
  };
  const compare = (one, other, sign) => {
    const [a, b] = [number(one), number(other)];
    if (Number.isNaN(a) !== Number.isNaN(b)) return Number.isNaN(a) ? 1 : -1; // what is no number comes last
    return sign * (Number.isNaN(a) ? compareTexts(one, other) : a - b);
  };
  const compareTexts = (one, other) => { // numbers within them as numbers, such as lr=0.02
    const [a, b] = [one, other].map((text) => text.split(/([+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?)/i));
    for (let at = 0; at < Math.min(a.length, b.length); at += 1) {
      const found = at % 2 ? a[at] - b[at] : a[at].localeCompare(b[at], "en");
      if (found) return found;
    }
    return a.length - b.length;
  };
  const textOf = (row, at) => row.cells[at].textContent.trim();
  const sort = (table, heading, at) => {
    const down = heading.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows];
    table.tBodies[0].append(...rows.sort((one, other) => compare(textOf(one, at), textOf(other, at), down ? -1 : 1)));
  };
  const equip = (table) => {
    if (!table.tBodies.length) return;
    [...table.tHead.rows[0].cells].forEach((heading, at) => {
      const button = make("button", { type: "button", onclick: () => sort(table, heading, at) }, ...heading.childNodes);
      heading.replaceChildren(button);
      heading.setAttribute("scope", "col");
    });
    if (table.tBodies[0].rows.length > 6) {
      const input = make("input", { type: "search", oninput: () => {
        const words = input.value.toLowerCase().split(/\s+/);
        for (const row of table.tBodies[0].rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
      } });
      table.closest(".wide").before(make("label", { class: "filter" }, "rows with ", input));
    }
  };
  document.querySelectorAll("main .wide > table").forEach(equip);
  const mark = () => document.querySelectorAll(".wide").forEach((box) => {
    const scrolls = box.scrollWidth > box.clientWidth + 1;
    box.classList.toggle("scrolls", scrolls);
    if (scrolls) {
      box.tabIndex = 0;
      box.setAttribute("role", "region");
      box.setAttribute("aria-label", `${box.closest("section")?.querySelector("h2").textContent ?? "table"}, scrolls sideways`);
    } else ["tabindex", "role", "aria-label"].forEach((name) => box.removeAttribute(name));
  });
  mark();
  window.addEventListener("resize", mark);
  document.addEventListener("toggle", mark, true); // what is folded has no width before
  window.addEventListener("beforeprint", () => document.querySelectorAll("main details").forEach((part) => { part.open = true; }));

  // Items: what two methods answered.
  const data = read("data"), section = document.getElementById("look");
  if (!section || !data.runs.length) return;
  const distinct = (values) => [...new Set(values)];
  const form = section.querySelector("form");
  const select = (name) => form.elements[name];
  const fill = (name, values, wanted) => {
    const kept = wanted ?? select(name).value;
    select(name).replaceChildren(...values.map((value) => make("option", { value }, String(value))));
    if (values.map(String).includes(String(kept))) select(name).value = kept;
  };
  const here = () => data.runs.filter((run) => run.model === select("model").value && run.task === select("task").value);
  const update = (wanted = {}) => {
    fill("model", distinct(data.runs.map((run) => run.model)), wanted.model);
    fill("task", distinct(data.runs.filter((run) => run.model === select("model").value).map((run) => run.task)), wanted.task);
    const methods = distinct(here().map((run) => run.method));
    fill("first", methods, wanted.first);
    fill("second", methods, wanted.second ?? (select("second").value || methods.find((name) => name.startsWith("lofit"))));
    const runs = here().filter((run) => run.method === select("second").value);
    fill("run", runs.map((run) => `seed ${run.seed}, fold ${run.fold}`), wanted.run);
    show();
  };
  const WHICH = {
    all: () => true,
    gained: (one, other) => one < 1 && other === 1,
    lost: (one, other) => one === 1 && other < 1,
    wrong: (one, other) => one < 1 && other < 1,
    right: (one, other) => one === 1 && other === 1,
  };
  const answerOf = (run, item, name) => {
    const at = run.answers[item.at], right = at[0] === 1;
    const said = make("div", {}, make("p", {}, make("strong", {}, name), " ", make("span", { class: right ? "good" : "bad" }, right ? "right" : at[0] > 0 ? `scores ${at[0]}` : "wrong")));
    if (typeof at[1] === "string") said.append(make("p", {}, at[1] || "(nothing)"));
    else {
      const best = Math.max(...at[1].map((value) => value ?? -Infinity));
      said.append(make("ul", {}, ...item.choices.map((text, n) => {
        const line = make("li", { class: item.gold.includes(n) ? "good" : null }, `${at[1][n]?.toFixed(2) ?? "not finite"} nats: ${text}${item.gold.includes(n) ? " (right)" : ""}`);
        if (at[1][n] === best) line.style.fontWeight = "bold";
        return line;
      })));
    }
    return said;
  };
  const PAGE = 10;
  let described = null;
  const show = (upTo = PAGE) => {
    const [first, second] = ["first", "second"].map((name) => select(name).value);
    const run = here().filter((found) => found.method === second).find((found) => `seed ${found.seed}, fold ${found.fold}` === select("run").value);
    const others = here().filter((found) => found.method === first && found.fold === run.fold && found.set === run.set);
    const other = others.find((found) => found.seed === run.seed) ?? others[0];
    const list = section.querySelector(".items"), told = section.querySelector("[aria-live]");
    if (run !== described) describe(run);
    described = run;
    if (!other) {
      told.textContent = `${first} has no run on the same items.`;
      list.replaceChildren();
      section.querySelector(".more").hidden = true;
      return;
    }
    const word = select("word").value.toLowerCase(), keep = WHICH[select("which").value];
    const items = data.items[run.set].map((item, at) => ({ ...item, at }))
      .filter((item) => keep(other.answers[item.at][0], run.answers[item.at][0]))
      .filter((item) => !word || JSON.stringify([item.prompt, item.right, item.choices, run.answers[item.at], other.answers[item.at]]).toLowerCase().includes(word));
    told.textContent = `${items.length} of ${data.items[run.set].length} items`;
    list.replaceChildren(...items.slice(0, upTo).map((item) => make("li", {},
      make("span", { class: "soft" }, item.id), make("pre", { tabindex: "0", role: "region", "aria-label": `prompt of ${item.id}` }, item.prompt),
      ...(item.right.length ? [make("p", {}, "Right: ", item.right.join(" | "))] : []),
      make("div", { class: "pair" }, answerOf(other, item, other.seed === run.seed ? first : `${first}, seed ${other.seed}`), answerOf(run, item, second)))));
    section.querySelector(".more").hidden = items.length <= upTo;
    section.querySelector(".more").onclick = () => show(upTo + PAGE);
  };
  const describe = (run) => {
    const place = section.querySelector(".run");
    const lines = run.told.map(([name, value]) => make("tr", {}, make("th", { scope: "row" }, name.replaceAll("_", " ")), make("td", {}, value)));
    const curves = make("div", { class: "curves" });
    place.replaceChildren(make("p", { class: "soft" }, `${run.id}: ${(100 * run.score).toFixed(1)}% ${data.metrics[run.task]}`));
    if (lines.length) place.append(make("div", { class: "wide" }, make("table", {}, make("tbody", {}, ...lines))), curves);
    if (run.lens.length) place.append(make("details", { class: "lens" }, make("summary", {}, "tokens that offsets stand for (logit lens)"),
      make("div", { class: "wide" }, make("table", {},
        make("thead", {}, make("tr", {}, ...["head", "norm of its offset", "tokens, most probable first"].map((name) => make("th", { scope: "col" }, name)))),
        make("tbody", {}, ...run.lens.map((cells) => make("tr", {}, ...cells.map((cell) => make("td", {}, cell)))))))));
    const values = Object.entries(run.curves).flatMap(([name, points]) => {
      const last = points.at(-1)[0] || 1;
      return points.map(([at, value]) => ({ what: name.replaceAll("_", " "), done: (100 * at) / last, value }));
    });
    if (values.length) draw(curves, {
      data: { values }, width: 260, height: 140, mark: { type: "line", point: true, tooltip: true },
      encoding: { x: { field: "done", type: "quantitative", title: "training done (%)" },
        y: { field: "value", type: "quantitative", title: "loss or metric", scale: { zero: false } },
        color: { field: "what", type: "nominal", title: null } } });
  };
  form.addEventListener("input", (event) => (["which", "word"].includes(event.target.name) ? show() : update()));
  form.addEventListener("submit", (event) => event.preventDefault());
  update({ first: "base" });

  // A cell of the main table of this protocol opens its items.
  const main = document.querySelector(`#table-${data.table} table`);
  if (main?.tBodies.length) {
    const names = [...main.tHead.rows[0].cells].map((cell) => cell.textContent.trim());
    for (const row of main.tBodies[0].rows) {
      const [model, method] = ["model", "method"].map((name) => textOf(row, names.indexOf(name)));
      names.forEach((task, at) => {
        if (!data.runs.some((run) => run.model === model && run.method === method && run.task === task)) return;
        const cell = row.cells[at];
        cell.replaceChildren(make("button", { type: "button", title: "look into it", onclick: () => {
          select("which").value = "all";
          select("word").value = "";
          update({ model, task, second: method });
          section.scrollIntoView();
          select("which").focus({ preventScroll: true });
        } }, ...cell.childNodes));
      });
    }
  }
})();

// What a test finds on the report page; written to the end of it as JSON.
const result = {}, wait = (ms) => new Promise((done) => setTimeout(done, ms));
const texts = (nodes) => [...nodes].map((node) => node.textContent.trim());
const type = (field, value) => { field.value = value; field.dispatchEvent(new Event("input", { bubbles: true })); };
(async () => {
  while (!document.querySelector("#figure-heads .panels svg path")) await wait(50);
  await wait(200);
  result.images = [...document.images].map((image) => (image.complete ? image.naturalWidth : 0));
  result.width = document.documentElement.scrollWidth;
  result.window = window.innerWidth;
  result.heading = getComputedStyle(document.querySelector("h1")).fontSize;
  result.drawn = document.querySelectorAll(".drawn .panels svg").length;
  result.hidden = [...document.querySelectorAll(".drawn img")].filter((image) => image.offsetParent === null).length;
  result.hinted = [...document.querySelectorAll(".scrolls")].map((box) => getComputedStyle(box.nextElementSibling).display);

  const main = document.querySelector("#table-main table"), column = (n) => [...main.tBodies[0].rows].map((row) => row.cells[n].textContent);
  const heading = main.tHead.rows[0].cells[2].querySelector("button");
  heading.click(); result.up = column(2);
  heading.click(); result.down = column(2);
  result.sorted = main.tHead.rows[0].cells[2].getAttribute("aria-sort");
  const costs = document.querySelector("#costs-of-nodes .filter input"), lines = () => [...document.querySelectorAll("#costs-of-nodes tbody tr")];
  type(costs, "fit lora"); result.filtered = texts(lines().filter((row) => !row.hidden));
  type(costs, "");

  const look = document.querySelector("#look"), form = look.querySelector("form");
  [...main.tBodies[0].rows].find((row) => row.cells[1].textContent.startsWith("lofit")).cells[2].querySelector("button").click();
  result.chosen = ["task", "first", "second"].map((name) => form.elements[name].value);
  result.counts = {};
  for (const which of ["all", "gained", "lost", "wrong", "right"]) {
    type(form.elements.which, which);
    result.counts[which] = look.querySelector("[aria-live]").textContent;
  }
  type(form.elements.which, "all");
  type(form.elements.run, "seed 2, fold 0");
  result.second = look.querySelector("[aria-live]").textContent;
  type(form.elements.run, "seed 1, fold 0");
  result.lens = texts(look.querySelectorAll(".run .lens tbody tr"));
  result.items = texts(look.querySelectorAll(".items li"));

  const cell = document.querySelector("#figure-heads .panels svg .mark-rect path"), box = cell.getBoundingClientRect();
  const at = { bubbles: true, clientX: box.x + 2, clientY: box.y + 2, view: window };
  for (const kind of ["pointerover", "mouseover", "pointermove", "mousemove"]) cell.dispatchEvent(new MouseEvent(kind, at));
  await wait(300);
  result.hover = texts(document.querySelectorAll("#vg-tooltip-element")).join();

  result.curves = look.querySelectorAll(".run svg").length;
  result.loaded = performance.getEntriesByType("resource").length;
  result.axe = (await axe.run(document)).violations.filter((found) => ["serious", "critical"].includes(found.impact))
    .map((found) => [found.id, found.nodes[0].html.slice(0, 200)]);
})().catch((error) => { result.error = String(error.stack); }).finally(() => {
  const place = document.createElement("pre");
  place.id = "probe"; place.textContent = JSON.stringify(result);
  document.body.append(place);
});

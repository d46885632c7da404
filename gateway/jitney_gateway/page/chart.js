// A small line chart of the last minutes: one figure that matters now, a line of how it came to be, nothing to decode.

import { element, say, show, svg } from "./dom.js";

const WIDTH = 240;
const HEIGHT = 52;
const PAD = 3;
// As many seconds as the chart looks back.
export const WINDOW = 120;

/** `name` is what it shows; `unit` goes behind the figure. */
export class Chart {
  constructor(name, unit, least) {
    Object.assign(this, { name, unit, least });
    this.figure = element("span", { class: "figure" }, "–");
    this.note = element("span", { class: "note" });
    this.measure = element("span", { class: "unit" }, unit);
    this.area = svg("path", { class: "area" });
    this.line = svg("path", { class: "line" });
    this.second = svg("path", { class: "second" });
    this.dots = svg("path", { class: "dots" });
    const base = svg("line", { class: "base", x1: 0, x2: WIDTH, y1: HEIGHT - PAD, y2: HEIGHT - PAD });
    this.picture = svg(
      "svg",
      { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" },
      base, this.area, this.second, this.line, this.dots,
    );
    this.node = element(
      "div",
      { class: "chart" },
      element("div", { class: "chart-name" }, name),
      element("div", { class: "chart-now" }, this.figure, this.measure),
      this.picture,
      this.note,
    );
  }

  /** `points`, `second` and `dots` are [seconds ago, value or null]; null breaks the line. `now` is the figure as text. */
  draw(points, now, note, second = [], dots = []) {
    const values = [...points, ...second, ...dots].map(([, value]) => value ?? 0);
    const top = Math.max(this.least, ...values) * 1.08;
    const x = (ago) => WIDTH * (1 - ago / WINDOW);
    const y = (value) => HEIGHT - PAD - (HEIGHT - 2 * PAD) * (value / top);
    const place = ([ago, value]) => `${x(ago).toFixed(1)} ${y(value).toFixed(1)}`;
    const runs = stretches(points);
    const drawn = (run) => `M${run.map(place).join("L")}`;
    this.line.setAttribute("d", runs.map(drawn).join(""));
    const floor = HEIGHT - PAD;
    this.area.setAttribute("d", runs.map((run) => `${drawn(run)}L${x(run.at(-1)[0]).toFixed(1)} ${floor}L${x(run[0][0]).toFixed(1)} ${floor}Z`).join(""));
    this.second.setAttribute("d", stretches(second).map(drawn).join(""));
    // Lines of no length with round ends: dots that stay round in a picture that is stretched.
    this.dots.setAttribute("d", dots.map((dot) => `M${place(dot)}h0`).join(""));
    say(this.figure, now);
    show(this.measure, now !== "–");
    say(this.note, note);
    this.picture.setAttribute("aria-label", `${this.name} over the last two minutes: now ${now} ${this.unit}. ${note}`);
  }
}

function stretches(points) {
  const runs = [];
  let run = null;
  for (const point of points) {
    if (point[1] === null) run = null;
    else if (run) run.push(point);
    else runs.push((run = [point]));
  }
  return runs;
}

// Tables whose rows stay where they are while their figures change, and the small charts.
//
// Whatever a name contains, it gets into the page as text: nothing here is made of HTML.

const SVG = "http://www.w3.org/2000/svg";
const KEPT = 120; // readings, one a second

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// What a figure has been, as a line. The last readings of each key.
export class History {
  #values = new Map();

  add(key, value) {
    if (!this.#values.has(key)) this.#values.set(key, []);
    const values = this.#values.get(key);
    values.push(value);
    if (values.length > KEPT) values.shift();
    return values;
  }

  // Those of keys that there are no longer.
  keep(keys) {
    for (const key of this.#values.keys()) if (!keys.has(key)) this.#values.delete(key);
  }
}

export class Line {
  constructor() {
    this.node = document.createElementNS(SVG, "svg");
    this.node.setAttribute("class", "line");
    this.node.setAttribute("viewBox", "0 0 120 40");
    this.node.setAttribute("preserveAspectRatio", "none");
    this.node.setAttribute("aria-hidden", "true"); // its last value, and its peak, stand beside it
    [this.area, this.stroke] = ["area", "stroke"].map((name) => {
      const path = this.node.appendChild(document.createElementNS(SVG, "path"));
      path.setAttribute("class", name);
      return path;
    });
  }

  draw(values) {
    if (values.length < 2) return;
    const top = Math.max(...values) || 1;
    const points = values.map((value, index) => {
      const x = 120 - (values.length - 1 - index) * (120 / (KEPT - 1));
      return `${x.toFixed(1)} ${(39 - (38 * value) / top).toFixed(1)}`;
    });
    const line = `M${points.join("L")}`;
    this.stroke.setAttribute("d", line);
    this.area.setAttribute("d", `${line}V40H${points[0].split(" ")[0]}Z`);
  }
}

// A bar, its number, and perhaps a mark where it should be.
class Bar {
  constructor(cell) {
    this.track = element("span", "track");
    this.track.setAttribute("aria-hidden", "true");
    this.fill = this.track.appendChild(element("div", "fill"));
    this.number = element("span", "number");
    const row = cell.appendChild(element("span"));
    row.append(this.track, this.number);
  }

  set(part, text, mark) {
    this.fill.style.width = `${Math.min(100, 100 * part).toFixed(1)}%`;
    setText(this.number, text);
    if (mark === undefined) return;
    this.mark ??= this.track.appendChild(element("div", "mark"));
    this.mark.style.left = `calc(${Math.min(100, 100 * mark).toFixed(1)}% - 1px)`;
  }
}

// The kinds of columns: each gives what a cell needs to be filled, once, and fills it.
export const text = (value, className) => ({
  className: `text ${className ?? ""}`,
  sort: value,
  fill: (cell, row) => {
    setText(cell, value(row));
    if (className === "name") cell.title = value(row);
  },
});

// level: "warn" or "bad" of a row, or nothing.
export const number = (value, format, level) => ({
  className: "",
  sort: value,
  fill: (cell, row) => {
    setText(cell, format(value(row)));
    const how = level?.(row) || (value(row) ? "" : "zero");
    if (cell.className !== how) cell.className = how;
  },
});

// full: what fills the bar, if it is not 1.
export const bar = (value, format, mark, full) => ({
  className: "bar",
  sort: value,
  fill: (cell, row) => {
    cell.bar ??= new Bar(cell);
    cell.bar.set(value(row) / (full?.(row) ?? 1), format(value(row)), mark?.(row));
  },
});

export const chart = (values) => ({
  className: "chart",
  sort: null,
  fill: (cell, row) => {
    if (!cell.line) {
      cell.line = new Line();
      cell.append(cell.line.node);
    }
    cell.line.draw(values(row));
  },
});

export const custom = (className, sort, fill) => ({ className, sort, fill });

export class Table {
  #rows = new Map();
  #sorted = null; // the number of a column
  #down = true;

  // key: of a row, which stays the same. The first column is the row's name.
  constructor(id, key, columns) {
    this.table = document.getElementById(id);
    this.body = this.table.tBodies[0];
    this.key = key;
    this.columns = columns;
    [...this.table.tHead.rows[0].cells].forEach((head, index) => {
      if ("sort" in head.dataset) this.#makeSortable(head, index);
    });
  }

  #makeSortable(head, index) {
    const button = element("button", "", head.textContent);
    button.type = "button";
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      this.#down = this.#sorted === index ? !this.#down : !this.#isText(index); // numbers: the largest first
      this.#sorted = index;
      for (const other of this.table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", this.#down ? "descending" : "ascending");
      if (this.rows) this.show(this.rows);
    });
  }

  #isText(index) {
    return this.columns[index].className.startsWith("text") || this.columns[index].className.startsWith("condition");
  }

  show(rows) {
    this.rows = rows;
    if (this.#sorted !== null) {
      const value = this.columns[this.#sorted].sort;
      const order = this.#down ? -1 : 1;
      rows = [...rows].sort((one, other) => {
        const [a, b] = [value(one), value(other)];
        return order * (typeof a === "string" ? a.localeCompare(b) : a - b);
      });
    }
    const there = new Set(rows.map(this.key));
    for (const [key, line] of this.#rows) {
      if (!there.has(key)) {
        line.remove();
        this.#rows.delete(key);
      }
    }
    rows.forEach((row, index) => {
      const line = this.#lineOf(this.key(row));
      this.columns.forEach((column, number) => column.fill(line.cells[number], row));
      // Moved only where the order has changed, so that nobody's focus or selection is lost.
      if (this.body.rows[index] !== line) this.body.insertBefore(line, this.body.rows[index] ?? null);
    });
  }

  #lineOf(key) {
    let line = this.#rows.get(key);
    if (line === undefined) {
      line = document.createElement("tr");
      this.columns.forEach((column, number) => {
        const cell = line.appendChild(element(number ? "td" : "th", column.className.trim()));
        if (!number) cell.scope = "row";
      });
      this.#rows.set(key, line);
    }
    return line;
  }
}

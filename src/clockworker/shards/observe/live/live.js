// The live page: asks for the figures once a second while somebody looks, and shows them.

import { bytes, cores, count, duration, percent, rate, time, uptime, whole } from "./format.js";
import { History, Line, Table, bar, chart, custom, element, number, setText, text } from "./table.js";

const EVERY_MS = 1000;
const ANSWER_MS = 5000;
const MATRIX_EVERY = 2; // readings
const MATRIX_SHARDS = 24; // a larger matrix is for nobody's eyes
const GROUPS = 20;
const STALLED_S = 2; // a ready shard whose figures are older does not turn its loop

const byId = (id) => document.getElementById(id);
const history = new History();

// The figures at the top.

class Tile {
  constructor(name, title) {
    this.node = element("div");
    this.node.title = title;
    this.node.append(element("dt", "", name));
    this.value = this.node.appendChild(element("dd", "value"));
    const chart = this.node.appendChild(element("dd"));
    this.line = new Line();
    chart.append(this.line.node);
    this.peak = this.node.appendChild(element("dd", "peak"));
    this.name = name;
  }

  show(value, format) {
    const values = history.add(`tile ${this.name}`, value);
    this.line.draw(values);
    setText(this.value, format(value));
    setText(this.peak, `peak ${format(Math.max(...values))}`);
  }
}

const worstWait = (stats) => Math.max(0, ...stats.queues.map((queue) => queue.wait.p99_ns));
const TILES = [
  [new Tile("Requests/s", "HTTP requests that are done, a second"), (s) => s.total.requests?.per_s, rate],
  [new Tile("Time, 99 %", "99 of 100 HTTP requests take no longer"), (s) => s.total.requests?.time.p99_ns, duration],
  [new Tile("Wait, 99 %", "of the queue whose tasks wait longest for their step"), worstWait, duration],
  [new Tile("CPU", "cores that all shards use together"), (s) => s.total.rates.cpu, cores],
  [new Tile("Calls/s", "calls from shards to others, a second"), (s) => s.total.rates.calls_per_s, rate],
  [new Tile("Connections", "open connections"), (s) => s.total.connections_open, count],
  [new Tile("Memory", "resident memory of all shards"), (s) => s.total.rss_bytes, bytes],
];

function showTiles(stats) {
  for (const [tile, value, format] of TILES) {
    const now = value(stats);
    if (now === undefined) {
      tile.node.remove();
    } else {
      if (!tile.node.isConnected) placeTile(tile);
      tile.show(now, format);
    }
  }
}

function placeTile(tile) {
  const order = TILES.map(([each]) => each);
  const next = order.slice(order.indexOf(tile) + 1).find((each) => each.node.isConnected);
  byId("tiles").insertBefore(tile.node, next?.node ?? null);
}

class Figure {
  constructor(name) {
    this.name = name;
    this.node = element("figure");
    this.line = new Line();
    const caption = element("figcaption");
    caption.append(element("span", "", name), (this.number = element("span", "number")));
    this.peak = element("span", "peak");
    this.node.append(caption, this.line.node, this.peak);
    byId("requests-charts").append(this.node);
  }

  show(value, format) {
    const values = history.add(`figure ${this.name}`, value);
    this.line.draw(values);
    setText(this.number, format(value));
    setText(this.peak, `peak ${format(Math.max(...values))}`);
  }
}

const sum = (values) => values.reduce((total, value) => total + value, 0);
const FIGURES = [
  [new Figure("2xx and 3xx/s"), (all) => all.statuses_per_s[2] + all.statuses_per_s[3], rate],
  [new Figure("4xx/s"), (all) => all.statuses_per_s[4], rate],
  [new Figure("5xx/s"), (all) => all.statuses_per_s[5], rate],
  [new Figure("Time, 50 %"), (all) => all.time.p50_ns, duration],
  [new Figure("Running"), (all) => all.running, count],
  [new Figure("Waiting"), (all) => all.waiting, count],
];

// The tables.

const STATES = { ready: "good", starting: "warn", draining: "warn", "back-off": "bad", dead: "bad", stopped: "bad" };

const stateOf = (shard) => (shard.state === "ready" && shard.age_s > STALLED_S ? "stalled" : shard.state);

function fillState(cell, shard) {
  cell.shown ??= cell.appendChild(element("span"));
  setText(cell.shown, stateOf(shard));
  cell.shown.className = STATES[stateOf(shard)] ?? "bad";
}

function fillQueueName(cell, queue) {
  if (!cell.named) {
    const row = cell.appendChild(element("div", "badged"));
    cell.named = row.appendChild(element("span"));
    if (queue.preemptive) row.append(element("span", "badge", "preemptive"));
  }
  setText(cell.named, queue.name);
  cell.title = queue.name;
}

const shards = new Table("shards-table", (shard) => shard.id, [
  number((shard) => shard.id, String),
  custom("condition", stateOf, fillState),
  bar((shard) => shard.rates.cpu, percent),
  number((shard) => shard.rates.busy, percent),
  number((shard) => shard.rates.steal, percent, (shard) => shard.rates.steal > 0.1 && "warn"),
  number((shard) => shard.lag.p99_ns, duration, (shard) => shard.lag.p99_ns > 1e8 && "warn"),
  number((shard) => shard.runnable, count),
  number((shard) => shard.connections_open, count),
  number((shard) => shard.rates.requests_per_s, rate),
  number((shard) => shard.rates.calls_per_s, rate),
  number((shard) => shard.ring_fill, whole, (shard) => shard.ring_fill > 0.9 && "warn"),
  number((shard) => shard.rss_bytes, bytes),
  number((shard) => shard.uptime_s, uptime),
  number((shard) => shard.restarts, count),
  number((shard) => shard.stalls, count, (shard) => shard.stalls && "warn"),
  number((shard) => shard.cpu ?? -1, (cpu) => (cpu < 0 ? "–" : String(cpu))),
  number((shard) => shard.pid ?? 0, (pid) => (pid ? String(pid) : "–")),
]);

const queues = new Table("queues-table", (queue) => queue.name, [
  custom("text name", (queue) => queue.name, fillQueueName),
  number((queue) => queue.share, String),
  number((queue) => queue.wanted, percent),
  bar((queue) => queue.got, percent, (queue) => queue.wanted),
  number((queue) => queue.busy, percent),
  number((queue) => queue.runnable, count),
  number((queue) => queue.tasks, count),
  number((queue) => queue.polls_per_s, count),
  number((queue) => queue.wait.p50_ns, duration),
  number((queue) => queue.wait.p99_ns, duration),
  chart((queue) => queue.waits),
  number((queue) => queue.poll_time.p99_ns, duration),
  number((queue) => queue.slow_polls, count, (queue) => queue.slow_polls && "warn"),
  number((queue) => queue.panics, count, (queue) => queue.panics && "bad"),
]);

const routes = new Table("routes-table", (row) => `${row.queue} ${row.route}`, [
  text((row) => row.route, "name"),
  text((row) => row.queue, "name"),
  number((row) => row.requests.per_s, rate),
  number((row) => row.requests.statuses_per_s[4], rate),
  number((row) => row.requests.statuses_per_s[5], rate, (row) => row.requests.statuses_per_s[5] && "bad"),
  number((row) => row.requests.refused_per_s, rate, (row) => row.requests.refused_per_s && "warn"),
  number((row) => row.requests.running, count),
  number((row) => row.requests.waiting, count),
  number((row) => row.requests.time.p50_ns, duration),
  number((row) => row.requests.time.p99_ns, duration),
  chart((row) => row.times),
]);

const hogs = (queue) =>
  Object.entries(queue.hogs)
    .sort((one, other) => other[1] - one[1])
    .map(([name, part]) => `${name} ${percent(part)}`)
    .join(", ");

const preemption = new Table("preemption-table", (queue) => queue.name, [
  text((queue) => queue.name, "name"),
  number((queue) => queue.cuts_per_s, rate),
  number((queue) => sum(Object.values(queue.refusals_per_s)), rate),
  number((queue) => queue.whole_step.p50_ns, duration),
  number((queue) => queue.whole_step.p99_ns, duration),
  number((queue) => queue.whole_step.max_ns, duration),
  text((queue) => hogs(queue) || "–"),
]);

const groups = new Table("groups-table", (group) => JSON.stringify([group.queue, group.name]), [
  text((group) => group.name, "name"),
  text((group) => group.queue, "name"),
  bar((group) => group.cores, percent, undefined, (group) => Math.max(1, group.most)),
]);

const topics = new Table("topics-table", (topic) => topic.topic, [
  text((topic) => topic.topic, "name"),
  number((topic) => topic.subscribers, count),
  number((topic) => topic.published_per_s, rate),
  number((topic) => topic.delivered_per_s, rate),
  number((topic) => topic.dropped_per_s, rate, (topic) => topic.dropped_per_s && "bad"),
  number((topic) => topic.dropped, count, (topic) => topic.dropped && "warn"),
]);

function showGroups(stats) {
  const rows = stats.queues.flatMap((queue) =>
    Object.entries(queue.groups).map(([name, used]) => ({ name, queue: queue.name, cores: used })),
  );
  rows.sort((one, other) => other.cores - one.cores);
  for (const row of rows) row.most = rows[0].cores;
  groups.show(rows.slice(0, GROUPS));
  return rows.length > 0;
}

function fillNodeState(cell, node) {
  cell.shown ??= cell.appendChild(element("span"));
  setText(cell.shown, node.silent ? "silent" : node.isHere ? "this one" : "heard");
  cell.shown.className = node.silent ? "bad" : "good";
}

const nodes = new Table("nodes-table", (node) => node.name, [
  text((node) => node.name, "name"),
  custom("condition", (node) => String(node.silent), fillNodeState),
  number((node) => node.shards, String),
  number((node) => node.slot, String),
  number((node) => node.since, (since) => new Date(1000 * since).toLocaleString([], { hour12: false })),
]);

function showNodes(cluster) {
  if (!cluster) return false; // this machine is alone
  let standing = cluster.settled ? "serves its keys" : "serves the keys that it had";
  if (!cluster.owns) standing = "serves no keys: most of the cluster has not confirmed it of late";
  if (!cluster.joined) standing = "is not in the cluster";
  const broker = cluster.connected ? "connected" : cluster.problem || "not connected";
  setText(
    byId("cluster"),
    `Cluster ${cluster.name}, epoch ${cluster.epoch}: this node, ${cluster.node}, ${standing}. Broker: ${broker}, ` +
      `${cluster.reconnects} reconnects. ${rate(cluster.calls_per_s)} calls a second to other nodes, ` +
      `${cluster.sessions} sessions with their shards.`,
  );
  nodes.show(cluster.nodes.map((node) => ({ ...node, isHere: node.name === cluster.node })));
  return true;
}

// Calls between shards.

let lastFrames = null;
let shardCount = 0;
let readings = 0;

// Every other time, where there is a table to fill. Null else.
async function askForFrames() {
  const isWanted = shardCount > 1 && shardCount <= MATRIX_SHARDS && readings++ % MATRIX_EVERY === 0;
  return isWanted ? ask("stats/rings") : null;
}

function showMatrix(size, frames) {
  shardCount = size;
  const isTooLarge = size > MATRIX_SHARDS;
  byId("calls-table").parentElement.hidden = isTooLarge;
  byId("calls-many").hidden = !isTooLarge;
  if (isTooLarge) {
    setText(byId("calls-many"), `A table of ${size} by ${size} is not shown; each shard's calls are in the table of shards.`);
  } else if (frames) {
    if (lastFrames && frames.at_s > lastFrames.at_s) fillMatrix(frames, lastFrames);
    lastFrames = frames;
  }
  return size > 1;
}

function fillMatrix(now, before) {
  const table = byId("calls-table");
  const size = now.frames_sent.length;
  if (table.tBodies[0].rows.length !== size) makeMatrix(table, size);
  const rates = now.frames_sent.map((row, from) =>
    row.map((frames, to) => {
      const earlier = before.frames_sent[from]?.[to] ?? 0;
      return (frames >= earlier ? frames - earlier : frames) / (now.at_s - before.at_s); // a new incarnation counts anew
    }),
  );
  const top = Math.max(...rates.flat()) || 1;
  for (let from = 0; from < size; from++) {
    for (let to = 0; to < size; to++) {
      const cell = table.tBodies[0].rows[from].cells[to + 1];
      const value = rates[from]?.[to] ?? 0;
      setText(cell, from === to ? "" : rate(value));
      cell.className = value ? "" : "zero";
      cell.style.setProperty("--heat", `${Math.round((30 * value) / top)}%`);
    }
  }
}

function makeMatrix(table, size) {
  const corner = element("td", "text mute", "from ↓ to →");
  const heads = Array.from({ length: size }, (_, id) => {
    const head = element("th", "", String(id));
    head.scope = "col";
    return head;
  });
  table.tHead.rows[0].replaceChildren(corner, ...heads);
  table.tBodies[0].replaceChildren(
    ...heads.map((_, id) => {
      const line = element("tr");
      const head = line.appendChild(element("th", "", String(id)));
      head.scope = "row";
      line.append(...heads.map(() => element("td")));
      return line;
    }),
  );
}

// Restarts and stalls.

const KINDS = { stall: "Stall", crash: "Crash", roll: "Replaced" };
let lastEvent = 0;

function showEvents(stats) {
  const list = byId("events-list");
  for (const event of stats.events) {
    if (event.number <= lastEvent) continue;
    lastEvent = event.number;
    const line = element("li", event.what);
    const when = element("time", "", time(event.at));
    when.dateTime = new Date(1000 * event.at).toISOString();
    line.append(when, element("span", "kind", KINDS[event.what] ?? event.what), element("span", "detail", event.detail));
    list.prepend(line);
  }
  byId("events-none").hidden = list.childElementCount > 0;
}

// All of it.

function show(stats, frames) {
  setText(byId("app"), stats.app);
  document.title = `${stats.app} – clockworker`;
  const where = stats.addresses.length ? stats.addresses.join(", ") : "no address";
  const how = stats.compiled ? "" : " (pure Python)";
  setText(byId("about"), `${where} · pid ${stats.pid} · up ${uptime(stats.uptime_s)} · clockworker ${stats.version}${how}`);
  const ready = `${stats.total.shards_ready} of ${stats.shards.length} shards ready`;
  const well = stats.serving && stats.total.shards_ready === stats.shards.length;
  setState(`${stats.serving ? "serving" : "not serving"}, ${ready}`, well ? "good" : "warn");
  for (const queue of stats.queues) queue.waits = history.add(`wait ${queue.name}`, queue.wait.p99_ns);
  for (const row of stats.routes) {
    row.times = history.add(`time ${row.queue} ${row.route}`, row.requests.time.p99_ns);
  }
  history.keep(
    new Set([
      ...TILES.map(([tile]) => `tile ${tile.name}`),
      ...FIGURES.map(([figure]) => `figure ${figure.name}`),
      ...stats.queues.map((queue) => `wait ${queue.name}`),
      ...stats.routes.map((row) => `time ${row.queue} ${row.route}`),
    ]),
  );
  showTiles(stats);
  shards.show(stats.shards);
  queues.show(stats.queues);
  setSection("requests", stats.total.requests !== null);
  if (stats.total.requests) {
    for (const [figure, value, format] of FIGURES) figure.show(value(stats.total.requests), format);
    routes.show(stats.routes);
  }
  const preemptive = stats.queues.filter((queue) => queue.preemptive);
  setSection("preemption", preemptive.length > 0);
  preemption.show(preemptive);
  setSection("groups", showGroups(stats));
  setSection("topics", stats.topics.length > 0);
  topics.show(stats.topics);
  setSection("calls", showMatrix(stats.shards.length, frames));
  setSection("nodes", showNodes(stats.cluster));
  showEvents(stats);
}

function setSection(id, isThere) {
  byId(id).hidden = !isThere;
  document.querySelector(`nav [data-for="${id}"]`).hidden = !isThere;
}

function setState(said, level) {
  setText(byId("state"), said);
  byId("state").className = `state ${level}`;
}

class NoAnswer extends Error {}

async function ask(path) {
  try {
    const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(ANSWER_MS) });
    if (answer.ok) return await answer.json();
    throw new NoAnswer(`${path}: ${answer.status}`);
  } catch (error) {
    throw new NoAnswer(`${path}: ${error.message}`); // it is gone, or too slow, or was cut off
  }
}

let paused = false;
let next = null;
let heard = null; // when there was an answer last

async function turn() {
  clearTimeout(next);
  const began = performance.now();
  try {
    const [stats, frames] = await Promise.all([ask("stats/summary"), askForFrames()]);
    if (paused) return;
    show(stats, frames);
    heard = Date.now();
    document.body.classList.remove("stale");
  } catch (error) {
    if (!(error instanceof NoAnswer)) throw error;
    document.body.classList.add("stale");
    setState(heard ? `no answer since ${time(heard / 1000)}` : "no answer", "bad");
  } finally {
    clearTimeout(next);
    if (!paused && !document.hidden) next = setTimeout(turn, Math.max(100, EVERY_MS - (performance.now() - began)));
  }
}

byId("pause").addEventListener("click", () => {
  paused = !paused;
  setText(byId("pause"), paused ? "Resume" : "Pause");
  if (paused) {
    clearTimeout(next);
    setState("paused", "");
  } else {
    turn();
  }
});

// Nobody is asked for what nobody sees.
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && !paused) turn();
});

turn();

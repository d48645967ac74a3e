// The log viewer: a window onto logs of any size. Only what is seen, and a little around it, is in the page.
"use strict";
(() => {
const LINE = 20, CHUNK = 200, KEPT = 60, TALLEST = 8_000_000;
const root = document.getElementById("log");
if (!root?.dataset.streams && !root?.dataset.run) return;
const run = root.dataset.run, began = new Date(root.dataset.began);
const tools = root.querySelector(".tools"), followButton = tools.querySelector(".follow"), timeButton = tools.querySelector(".time");
const searchField = tools.querySelector("input"), hitsField = tools.querySelector(".hits");
const base = root.dataset.base ?? `/runs/${encodeURIComponent(run)}`;
let follow = root.dataset.done === "no";
let marked = { name: "", from: 0, to: 0 };
tools.hidden = false;

// ---- times ----
const TIMES = ["UTC", "since start", "since previous"];
let times = Math.max(0, TIMES.indexOf(localStorage.getItem("paddock.times") ?? "UTC"));
const span = (ms) => {
  const s = Math.max(0, ms) / 1000;
  return s < 3600 ? `${String(Math.floor(s / 60)).padStart(2, "0")}:${(s % 60).toFixed(3).padStart(6, "0")}` : `${Math.floor(s / 3600)}h ${String(Math.floor(s / 60) % 60).padStart(2, "0")}m ${String(Math.floor(s % 60)).padStart(2, "0")}s`;
};
const spelled = (at, before) => {
  if (!at) return "";
  if (times === 0) return at.slice(11, 23);
  const moment = new Date(at);
  if (times === 1) return `+${span(moment - began)}`;
  return before ? `+${span(moment - new Date(before))}` : "";
};
const retime = (rows) => {
  let before = "";
  for (const time of rows.querySelectorAll("time.t")) { time.textContent = spelled(time.dataset.t, before); before = time.dataset.t; }
};

// ---- one stream ----
class View {
  constructor(details) {
    this.details = details;
    this.name = details.dataset.stream;
    this.ended = details.dataset.ended === "yes";
    this.total = Number(details.dataset.total);
    this.window = details.querySelector(".window");
    this.chunks = new Map();
    this.hits = new Set();
    this.drawing = false;
    this.taken = false;
    this.window.addEventListener("scroll", () => this.scrolled(), { passive: true });
    this.window.addEventListener("click", (event) => this.clicked(event));
    details.addEventListener("toggle", () => { if (details.open) { this.take(); this.draw(); } });
    // Of a long log the page holds the first lines alone: how many there are is asked for behind its back.
    this.ready = "partial" in details.dataset ? this.learn() : Promise.resolve();
    if (!("partial" in details.dataset) && details.open) this.take();
    if (!this.ended) this.listen();
  }
  async learn() {
    const answer = await fetch(`${base}/log/${encodeURIComponent(this.name)}/lines?first=1&count=1`).then((got) => got.ok ? got.json() : null).catch(() => null);
    if (!answer) return;
    this.total = answer.total;
    if (this.details.open) this.take();
  }
  // The lines of the server stand until the first scroll: a short log is never fetched again.
  take() {
    if (this.taken) return;
    const there = this.window.querySelectorAll(".l").length;
    if (there >= this.total && this.ended) {
      retime(this.window);
      // A step that did not succeed says why at its end.
      if (this.details.querySelector("summary .bad")) this.bottom();
      return;
    }
    this.taken = true;
    this.window.textContent = "";
    this.pad = document.createElement("div");
    this.pad.className = "pad";
    this.rows = document.createElement("div");
    this.rows.className = "rows";
    this.pad.append(this.rows);
    this.window.append(this.pad);
    this.size();
    if (!this.ended || this.details.querySelector("summary .bad")) this.bottom();
    this.draw();
  }
  size() {
    this.height = Math.min(TALLEST, this.total * LINE);
    if (this.pad) this.pad.style.height = `${Math.max(LINE, this.height)}px`;
  }
  // Browsers end at some million pixels: beyond that a pixel of the scrollbar stands for more than its share of lines.
  get scale() {
    const seen = this.window.clientHeight, room = Math.max(1, this.height - seen);
    return Math.max(1, (this.total * LINE - seen) / room);
  }
  top() { return Math.floor(this.window.scrollTop * this.scale / LINE); }
  bottom() { this.window.scrollTop = this.window.scrollHeight; }
  show(number) {
    if (!this.taken && !this.window.querySelector(`[data-n="${number}"]`)) { this.details.open = true; this.taken = false; this.force(); }
    if (this.taken) {
      this.window.scrollTop = Math.max(0, ((number - 1) * LINE - this.window.clientHeight / 3) / this.scale);
      this.draw();
    } else {
      this.window.querySelector(`[data-n="${number}"]`)?.parentElement.scrollIntoView({ block: "center" });
    }
  }
  force() { const ended = this.ended; this.ended = false; this.take(); this.ended = ended; }
  scrolled() {
    if (follow && !this.ended && this.window.scrollTop + this.window.clientHeight < this.window.scrollHeight - 2 * LINE && !this.placing) pause();
    this.draw();
  }
  async draw() {
    if (!this.taken || !this.details.open) return;
    if (this.drawing) { this.redraw = true; return; }
    this.drawing = true;
    do {
      this.redraw = false;
      const seen = Math.ceil(this.window.clientHeight / LINE) || 30;
      const first = Math.max(0, this.top() - 40), last = Math.min(this.total, this.top() + seen + 40);
      const wanted = [];
      for (let chunk = Math.floor(first / CHUNK); chunk * CHUNK < last; chunk += 1) wanted.push(chunk);
      await Promise.all(wanted.filter((chunk) => !this.chunks.has(chunk)).map((chunk) => this.fetch(chunk)));
      if (!this.redraw) this.put(first, last);
    } while (this.redraw);
    this.drawing = false;
  }
  async fetch(chunk) {
    const lines = [];
    let total = this.total;
    while (lines.length < CHUNK && chunk * CHUNK + lines.length < total) {
      const first = chunk * CHUNK + lines.length + 1;
      const answer = await fetch(`${base}/log/${encodeURIComponent(this.name)}/lines?first=${first}&count=${CHUNK - lines.length}`).then((got) => got.ok ? got.json() : null).catch(() => null);
      if (!answer || !answer.lines.length) break;
      lines.push(...answer.lines);
      total = answer.total;
    }
    this.chunks.set(chunk, lines);
    while (this.chunks.size > KEPT) this.chunks.delete(this.chunks.keys().next().value);
    if (total > this.total) { this.total = total; this.size(); }
  }
  put(first, last) {
    const fragment = document.createDocumentFragment();
    let before = "";
    for (let place = first; place < last; place += 1) {
      const line = this.chunks.get(Math.floor(place / CHUNK))?.[place % CHUNK];
      if (!line) continue;
      const [number, at, html] = line;
      const row = document.createElement("div"), anchor = document.createElement("a"), time = document.createElement("time"), code = document.createElement("code");
      row.className = "l";
      row.id = `${this.name}-L${number}`;
      if (marked.name === this.name && number >= marked.from && number <= marked.to) row.classList.add("on");
      if (this.hits.has(number)) row.classList.add("hit");
      anchor.className = "n";
      anchor.href = `#${this.name}-L${number}`;
      anchor.dataset.n = number;
      anchor.ariaLabel = `line ${number}`;
      time.className = "t";
      time.dataset.t = at;
      time.textContent = spelled(at, before);
      before = at;
      // Safe: the server escapes first and puts only its own spans in (web/ansi.py).
      code.innerHTML = html;
      row.append(anchor, time, code);
      fragment.append(row);
    }
    // Where the scrollbar is scaled, rows hang at what is seen, not at where they would be.
    const offset = this.scale > 1 ? this.window.scrollTop - (this.top() - first) * LINE : first * LINE;
    this.rows.style.top = `${offset}px`;
    this.rows.replaceChildren(fragment);
  }
  clicked(event) {
    const anchor = event.target.closest("a.n");
    if (!anchor) return;
    event.preventDefault();
    const number = Number(anchor.dataset.n);
    const from = event.shiftKey && marked.name === this.name ? Math.min(marked.from, number) : number;
    const to = event.shiftKey && marked.name === this.name ? Math.max(marked.to, number) : number;
    history.replaceState(null, "", `#${this.name}-L${from}${to > from ? `-L${to}` : ""}`);
    mark(this.name, from, to);
  }
  listen() {
    // The stream says that there is more; the lines themselves are fetched as they are seen.
    const stop = live(`${base}/log/${encodeURIComponent(this.name)}/live?bell=1`, {
      grew: () => this.grow(),
      end: () => { this.ended = true; stop(); this.grow(); },
    });
  }
  grow() {
    clearTimeout(this.growing);
    this.growing = setTimeout(() => this.grown(), 60);
  }
  async grown() {
    if (!this.taken && this.details.open) this.take();
    const last = Math.max(0, Math.floor((this.total - 1) / CHUNK));
    await this.fetch(last);
    if (!this.taken) return;
    this.placing = true;
    this.size();
    if (follow) this.bottom();
    await this.draw();
    requestAnimationFrame(() => { this.placing = false; });
  }
}

const views = new Map();
const adopt = () => {
  for (const details of root.querySelectorAll("details.stream")) {
    if (!views.has(details.dataset.stream)) views.set(details.dataset.stream, new View(details));
  }
};

// ---- new steps ----
document.addEventListener("paddock:fresh", (event) => {
  const page = event.detail;
  const fresh = page.getElementById("log");
  if (!fresh || fresh.dataset.machine !== root.dataset.machine) return;
  root.dataset.streams = fresh.dataset.streams;
  let before = null;
  for (const theirs of fresh.querySelectorAll("details.stream")) {
    const ours = document.getElementById(theirs.id);
    if (ours) {
      const summary = ours.querySelector("summary");
      if (summary.innerHTML !== theirs.querySelector("summary").innerHTML) summary.innerHTML = theirs.querySelector("summary").innerHTML;
      before = ours;
    } else {
      root.querySelector(".empty")?.remove();
      const adopted = document.adoptNode(theirs.cloneNode(true));
      if (before) before.after(adopted); else root.append(adopted);
      before = adopted;
    }
  }
  adopt();
});

// ---- permalinks ----
function mark(name, from, to) {
  marked = { name, from, to };
  for (const row of root.querySelectorAll(".l.on")) row.classList.remove("on");
  for (let number = from; number <= Math.min(to, from + 2000); number += 1) document.getElementById(`${name}-L${number}`)?.classList.add("on");
}
async function toHash() {
  const found = /^#(.+?)(?:-L(\d+)(?:-L(\d+))?)?$/.exec(decodeURIComponent(location.hash));
  if (!found) return;
  let [, name, from, to] = found;
  let line = Number(from ?? 0), until = Number(to ?? from ?? 0);
  const streams = root.dataset.streams.split(" ").filter(Boolean);
  const machineOf = (stream) => stream.split("-").slice(2).join("-");
  if (!streams.includes(name)) {
    // `#one-L12`: line 12 of all that the machine printed, one step after the other.
    const own = streams.filter((stream) => machineOf(stream) === name);
    if (!own.length || !line) return;
    for (const stream of own) {
      const answer = await fetch(`${base}/log/${encodeURIComponent(stream)}/lines?first=1&count=1`).then((got) => got.json()).catch(() => null);
      if (!answer) return;
      name = stream;
      if (line <= answer.total) break;
      line -= answer.total;
      until -= answer.total;
    }
  }
  if (machineOf(name) !== root.dataset.machine) {
    location.replace(`?machine=${encodeURIComponent(machineOf(name))}#${name}${line ? `-L${line}` : ""}${until > line ? `-L${until}` : ""}`);
    return;
  }
  const view = views.get(name);
  if (!view) return;
  await view.ready;
  view.details.open = true;
  view.details.scrollIntoView({ block: "start" });
  if (!line) return;
  pause();
  mark(name, line, Math.max(line, until));
  view.show(line);
}
addEventListener("hashchange", toHash);

// ---- search ----
let hits = [], hit = -1;
async function search(text) {
  hits = [];
  hit = -1;
  hitsField.dataset.more = "";
  if (merged) {
    // Here what was read is searched; each machine's own tab searches all of its log.
    const wanted = text.toLowerCase();
    for (const row of merged.children) {
      row.classList.toggle("hit", wanted !== "" && row.lastChild.textContent.toLowerCase().includes(wanted));
      if (row.classList.contains("hit")) hits.push([null, row]);
    }
  }
  for (const view of views.values()) {
    view.hits.clear();
    if (!text) continue;
    const answer = await fetch(`${base}/log/${encodeURIComponent(view.name)}/search?q=${encodeURIComponent(text)}`).then((got) => got.json()).catch(() => ({ hits: [] }));
    for (const number of answer.hits) { hits.push([view, number]); view.hits.add(number); }
    hitsField.dataset.more = answer.more ? "+" : "";
  }
  if (!merged) for (const row of root.querySelectorAll(".l.hit")) row.classList.remove("hit");
  for (const [view, number] of hits) if (view) document.getElementById(`${view.name}-L${number}`)?.classList.add("hit");
  for (const view of views.values()) view.draw();
  hitsField.textContent = text ? (hits.length ? "" : "none") : "";
  if (hits.length) next(1);
}
function next(by) {
  if (!hits.length) return;
  hit = (hit + by + hits.length) % hits.length;
  const [view, number] = hits[hit];
  hitsField.textContent = `${hit + 1} of ${hits.length}${hitsField.dataset.more ?? ""}`;
  pause();
  if (!view) { number.scrollIntoView({ block: "center" }); return; }
  view.details.open = true;
  mark(view.name, number, number);
  view.show(number);
}
searchField.addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault();
  if (searchField.value === searchField.dataset.last && hits.length) next(event.shiftKey ? -1 : 1);
  else { searchField.dataset.last = searchField.value; search(searchField.value.trim()); }
});

// ---- follow ----
function shown() {
  followButton.setAttribute("aria-pressed", String(follow));
  followButton.textContent = follow ? "Pause" : "Follow";
  followButton.hidden = root.dataset.done === "yes";
}
function pause() { if (follow) { follow = false; shown(); } }
function toggle() {
  follow = !follow;
  shown();
  if (follow) { for (const view of views.values()) if (!view.ended && view.taken) view.bottom(); if (merged) merged.scrollTop = merged.scrollHeight; }
}
followButton.addEventListener("click", toggle);
timeButton.addEventListener("click", cycle);
function cycle() {
  times = (times + 1) % TIMES.length;
  localStorage.setItem("paddock.times", TIMES[times]);
  timeButton.textContent = TIMES[times];
  for (const window of root.querySelectorAll(".window")) retime(window);
}
timeButton.textContent = TIMES[times];
document.addEventListener("paddock:key", (event) => {
  if (event.detail === "f") toggle();
  else if (event.detail === "t") cycle();
  else if (event.detail === "n") next(1);
  else if (event.detail === "p") next(-1);
});

// ---- all machines by time ----
const merged = root.querySelector(".merged");
async function pour() {
  const machines = [...document.querySelectorAll("#machines a")].map((tab) => tab.textContent);
  let cursor = root.dataset.cursor;
  merged.scrollTop = merged.scrollHeight;
  merged.addEventListener("scroll", () => { if (follow && merged.scrollTop + merged.clientHeight < merged.scrollHeight - 3 * LINE) pause(); }, { passive: true });
  const isDone = root.dataset.done === "yes";
  if (isDone) merged.scrollTop = 0;
  for (;;) {
    // What is over is read from its beginning, as far as somebody scrolls; what goes on is followed.
    while (isDone && merged.scrollTop + merged.clientHeight < merged.scrollHeight - 60 * LINE) {
      await new Promise((done) => merged.addEventListener("scroll", done, { once: true, passive: true }));
    }
    const answer = await fetch(`/api/v1${base}/lines?cursor=${encodeURIComponent(cursor)}&limit=1000&wait=20`).then((got) => got.ok ? got.json() : null).catch(() => null);
    if (!answer) { await new Promise((done) => setTimeout(done, 2000)); continue; }
    cursor = answer.cursor;
    for (const line of answer.items) {
      const row = document.createElement("div"), time = document.createElement("time"), machine = document.createElement("b"), code = document.createElement("code");
      row.className = "l";
      time.className = "t";
      time.dataset.t = line.at ?? "";
      time.textContent = spelled(line.at, "");
      machine.className = `m m${Math.max(0, machines.indexOf(line.machine)) % 6}`;
      machine.textContent = line.machine;
      if (line.stream.startsWith("console-")) machine.append(" ", Object.assign(document.createElement("small"), { textContent: "console" }));
      code.textContent = line.text;
      row.append(time, machine, code);
      merged.append(row);
    }
    while (merged.children.length > 20000) merged.firstChild.remove();
    if (follow) merged.scrollTop = merged.scrollHeight;
    if (answer.ended) return;
  }
}

shown();
adopt();
if (merged) { retime(merged); pour(); }
toHash();
})();

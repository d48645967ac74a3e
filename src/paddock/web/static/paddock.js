// Keeps a page fresh, its times running, and its rows within reach of the keyboard. Everything works without it.
"use strict";

const brief = (seconds) => {
  seconds = Math.max(0, seconds);
  if (seconds < 9.95) return `${seconds.toFixed(1)}s`;
  const s = Math.round(seconds), pad = (n) => String(n).padStart(2, "0");
  if (s < 60) return `${s}s`;
  if (s < 3600) return `${Math.floor(s / 60)}m ${pad(s % 60)}s`;
  if (s < 172800) return `${Math.floor(s / 3600)}h ${pad(Math.floor(s / 60) % 60)}m`;
  return `${Math.floor(s / 86400)}d ${Math.floor(s / 3600) % 24}h`;
};

// The server's clock is the one that counts; a browser's may be wrong.
const skew = new Date(document.getElementById("clock").dateTime) - Date.now();
const tick = () => {
  const now = Date.now() + skew;
  for (const each of document.querySelectorAll("time.ago")) each.textContent = `${brief((now - new Date(each.dateTime)) / 1000)} ago`;
  document.getElementById("clock").textContent = new Date(now).toISOString().slice(11, 19);
};
setInterval(tick, 1000);

// ---- fresh ----
const refresh = (() => {
  let busy = false, again = false;
  const fetched = async () => {
    if (busy) { again = true; return; }
    busy = true;
    try {
      const answer = await fetch(location.pathname + location.search, { headers: { accept: "text/html" } });
      if (answer.ok) replace(new DOMParser().parseFromString(await answer.text(), "text/html"));
    } catch { /* away: the link says so, and the next message comes when it is back */ }
    await new Promise((done) => setTimeout(done, 700));
    busy = false;
    if (again) { again = false; fetched(); }
  };
  return fetched;
})();

function replace(page) {
  for (const part of document.querySelectorAll("[data-live]")) {
    const fresh = page.getElementById(part.id);
    if (!fresh || part.contains(document.activeElement) && document.activeElement.matches("input, select, button")) continue;
    if (fresh.innerHTML === part.innerHTML) continue;
    const open = new Set([...part.querySelectorAll("details")].flatMap((each, place) => each.open ? [place] : []));
    const at = [...part.querySelectorAll("[data-row]")].findIndex((row) => row.classList.contains("at"));
    part.innerHTML = fresh.innerHTML;
    part.querySelectorAll("details").forEach((each, place) => { each.open = open.has(place); });
    if (at >= 0) part.querySelectorAll("[data-row]")[at]?.classList.add("at");
  }
  document.title = page.title;
  document.dispatchEvent(new CustomEvent("paddock:fresh", { detail: page }));
  dress();
  tick();
}

// A browser opens few connections to one server for all its tabs: those that nobody sees give theirs back.
function live(address, heard, states = () => {}) {
  let source = null, over = false;
  const open = () => {
    if (source || over || document.hidden) return;
    source = new EventSource(typeof address === "function" ? address() : address);
    for (const [name, tell] of Object.entries(heard)) source.addEventListener(name, tell);
    source.onopen = () => states(true);
    source.onerror = () => states(false);
  };
  const close = () => { source?.close(); source = null; };
  document.addEventListener("visibilitychange", () => { if (document.hidden) close(); else open(); });
  addEventListener("pagehide", close);
  addEventListener("pageshow", open);
  open();
  return () => { over = true; close(); };
}

const topics = document.body.dataset.topics;
if (topics) {
  const link = document.getElementById("link");
  let was = false;
  live(`/live?topics=${encodeURIComponent(topics)}`, { touched: refresh }, (up) => {
    link.textContent = up ? "live" : "not live: the server does not answer";
    link.classList.toggle("away", !up);
    if (up && was) refresh();
    was = true;
  });
  // Bars move though nothing happens.
  if (topics === "now") setInterval(() => { if (!document.hidden) refresh(); }, 10000);
}

// ---- what an agent logs about itself ----
for (const log of document.querySelectorAll("[data-follow]")) {
  const isAtEnd = () => log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  live(() => `${log.dataset.follow}&cursor=${log.dataset.cursor}`, {
    lines: (event) => {
      const wasAtEnd = isAtEnd();
      log.querySelector(".empty")?.remove();
      for (const one of JSON.parse(event.data)) {
        const line = document.createElement("p");
        line.className = one.level;
        for (const [kind, text] of [["time", one.at.slice(0, 19).replace("T", " ")], ["b", one.level], ["span", one.text]]) {
          line.append(Object.assign(document.createElement(kind), { textContent: text }));
        }
        log.append(line);
      }
      while (log.children.length > 2000) log.firstElementChild.remove();
      log.dataset.cursor = event.lastEventId;
      if (wasAtEnd) log.scrollTop = log.scrollHeight;
    },
  });
  log.scrollTop = log.scrollHeight;
}
for (const choice of document.querySelectorAll("[data-submits]")) choice.addEventListener("change", () => choice.form.submit());

// ---- screens of machines ----
const looks = () => {
  for (const picture of document.querySelectorAll("img[data-again]")) {
    if (picture.dataset.watched) continue;
    picture.dataset.watched = "yes";
    const address = picture.getAttribute("src").split("?")[0];
    const again = () => setTimeout(() => {
      if (!picture.isConnected) return;
      if (document.hidden) { again(); return; }
      // The old picture stands until the new one is whole; one that is none leaves it as it is.
      const next = new Image();
      next.onload = () => { picture.src = next.src; picture.classList.remove("stale"); again(); };
      next.onerror = () => { picture.classList.add("stale"); again(); };
      next.src = `${address}?at=${Date.now()}`;
    }, Number(picture.dataset.again) * 1000);
    again();
  }
};
looks();
document.addEventListener("paddock:fresh", looks);

// ---- copy ----
function dress() {
  for (const button of document.querySelectorAll("button[data-copy][hidden]")) button.hidden = false;
}
dress();
document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-copy]");
  if (!button) return;
  navigator.clipboard?.writeText(button.dataset.copy).then(() => {
    button.classList.add("done");
    setTimeout(() => button.classList.remove("done"), 1200);
  });
});

// ---- keys ----
const rows = () => [...document.querySelectorAll("[data-row]")].filter((row) => row.offsetParent !== null);
const move = (by) => {
  const all = rows(), now = all.findIndex((row) => row.classList.contains("at"));
  if (!all.length) return;
  all[now]?.classList.remove("at");
  const next = all[Math.min(all.length - 1, Math.max(0, now < 0 ? 0 : now + by))];
  next.classList.add("at");
  next.scrollIntoView({ block: "nearest" });
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input, select, textarea")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (event.key === "/") {
    const field = document.querySelector("[data-search]");
    if (field) { event.preventDefault(); field.focus(); field.select(); }
  } else if (event.key === "j") move(1);
  else if (event.key === "k") move(-1);
  else if (event.key === "Enter" && event.target === document.body) document.querySelector(".at")?.querySelector("a[href]")?.click();
  else if (event.key === "?") document.getElementById("help").showModal();
  else document.dispatchEvent(new CustomEvent("paddock:key", { detail: event.key }));
});

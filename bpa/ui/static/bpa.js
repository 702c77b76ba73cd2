// What makes pages live: when to ask again, saying so, and copying. Pages work without it.
//
// The living part of a page (#live) asks for itself again when the body hears bpa:refresh. That is
// sent when control's stream of changes (#stream, one a tab, over htmx's extension) tells of
// something the page shows, at most once in data-every seconds, and now and then without a change,
// for ages go on. While there is no stream it is sent at that pace by itself. Nothing is asked, and
// no stream is held, while the tab is hidden or its reader has paused.
(() => {
  "use strict";
  const CALM_S = 15;
  const SLOWEST_S = 30;
  const pulse = document.getElementById("pulse");
  const pause = document.getElementById("pause");
  const say = document.getElementById("say");
  const stream = document.getElementById("stream");
  const words = { lost: "no answer, trying again", paused: "paused", live: "live" };
  let paused = sessionStorage.getItem("bpa-paused") === "1";
  let streaming = false;
  let failures = 0;
  let timer = 0;
  let due = Infinity;
  let asked = performance.now();
  let shown = "";
  let said = null;
  let kept = { open: [], scrolled: [] };
  let heard = "";

  document.documentElement.classList.add("js");
  const live = () => document.getElementById("live");
  const every = () => Number(live()?.dataset.every ?? 0);
  const resting = () => !every() || paused || document.hidden;

  function tell(text) {
    if (say.textContent !== text) say.textContent = text;
  }

  function show() {
    const beat = pulse.querySelector(".beat");
    const state = failures ? "lost" : paused ? "paused" : "live";
    pulse.hidden = !every();
    if (beat.dataset.state !== state && state === "lost") tell("Control does not answer; trying again");
    if (beat.dataset.state === "lost" && state === "live") tell("Live again");
    beat.dataset.state = state;
    beat.textContent = words[state];
    pause.setAttribute("aria-pressed", String(paused));
    pause.querySelector("span").textContent = paused ? "Resume" : "Pause";
  }

  // Ask again in so many seconds, unless it is to be sooner anyway.
  function plan(wait) {
    if (resting()) return clearTimeout(timer);
    const at = performance.now() + wait * 1000;
    if (timer && due <= at) return;
    clearTimeout(timer);
    due = at;
    timer = setTimeout(() => {
      timer = 0;
      asked = performance.now();
      document.body.dispatchEvent(new Event("bpa:refresh"));
    }, wait * 1000);
  }

  function pace() {
    if (failures) return Math.min(SLOWEST_S, every() * 2 ** Math.min(failures, 4));
    return streaming ? Math.max(CALM_S, every()) : every();
  }

  // Whether a part is older than the last change: what takes long to make is made for all tabs alike,
  // now and then. Both are an era and a number that counts on in it.
  function isBehind(made) {
    const [era, number] = (made ?? "").split("-");
    const [now, last] = heard.split("-");
    return era === now && Number(number) < Number(last);
  }

  function changed() {
    const since = (performance.now() - asked) / 1000;
    plan(Math.max(0.1, every() - since));
  }

  function connect() {
    if (!stream || !window.htmx) return;
    if (resting()) {
      streaming = false;
      return htmx.swap(stream, "", { swapStyle: "innerHTML" });
    }
    if (stream.firstElementChild) return;
    const topics = stream.dataset.topics.split(" ");
    const ear = document.createElement("i");
    ear.setAttribute("hx-ext", "sse");
    ear.setAttribute("sse-connect", "/v1/events?" + topics.map((one) => "topic=" + one).join("&"));
    ear.setAttribute("hx-trigger", [...topics, "refetch"].map((one) => "sse:" + one).join(", "));
    stream.append(ear);
    htmx.process(ear);
  }

  // Whether an event is about what the page shows: a run's page names the run.
  function concerns(event) {
    const run = stream.dataset.run;
    if (!run || event.type !== "run") return true;
    const data = JSON.parse(event.data);
    return data.more || data.runs.some((one) => one.runId === run);
  }

  function wake() {
    clearTimeout(timer);
    timer = 0;
    connect();
    show();
    plan(0);
  }

  document.addEventListener("htmx:sseOpen", () => { streaming = true; });
  document.addEventListener("htmx:sseError", () => { streaming = false; plan(every()); });
  document.addEventListener("htmx:sseMessage", (event) => {
    heard = event.detail.lastEventId;
    if (concerns(event.detail)) changed();
  });
  document.addEventListener("visibilitychange", wake);
  pause.addEventListener("click", () => {
    paused = !paused;
    sessionStorage.setItem("bpa-paused", paused ? "1" : "0");
    tell(paused ? "Paused: this page changes no more by itself" : "Live again");
    wake();
  });

  // A part that says the same is left as it is; what is open or scrolled in it stays so.
  document.addEventListener("htmx:beforeSwap", (event) => {
    if (event.detail.target !== live()) return;
    if (event.detail.xhr.responseText === shown) event.detail.shouldSwap = false;
    shown = event.detail.xhr.responseText;
    kept = {
      open: [...live().querySelectorAll("details[open][id]")].map((one) => one.id),
      scrolled: [...live().querySelectorAll(".scroll")].map((one) => [one.scrollLeft, one.scrollTop]),
    };
  });
  // An edit that is checked as it is typed: an answer to what has been typed over is left alone, as
  // another question follows it; what is long stays where it was scrolled to.
  let typed = 0;
  let answered = 0;
  const editor = () => document.querySelector("form[data-typed]");
  document.addEventListener("input", (event) => { if (event.target.form === editor()) typed += 1; });
  document.addEventListener("htmx:beforeRequest", (event) => {
    if (event.detail.elt === editor()) answered = typed;
  });
  document.addEventListener("htmx:beforeSwap", (event) => {
    if (event.detail.requestConfig.elt !== editor()) return;
    if (typed !== answered) event.detail.shouldSwap = false;
    kept.texts = [...editor().querySelectorAll("textarea")].map((one) => [one.id, one.scrollTop]);
  });
  document.addEventListener("htmx:afterSwap", () => {
    for (const [id, top] of kept.texts ?? []) {
      const text = document.getElementById(id);
      if (text) text.scrollTop = top;
    }
    kept.texts = [];
  });
  document.addEventListener("htmx:afterSwap", () => {
    for (const id of kept.open) document.getElementById(id)?.setAttribute("open", "");
    live()?.querySelectorAll(".scroll").forEach((one, at) => {
      [one.scrollLeft, one.scrollTop] = kept.scrolled[at] ?? [0, 0];
    });
  });
  document.addEventListener("htmx:afterRequest", (event) => {
    failures = event.detail.successful ? 0 : failures + 1;
    const now = live()?.dataset.say ?? "";
    if (!failures && said !== null && said !== now) tell(now);
    said = now;
    show();
    connect();
    plan(isBehind(event.detail.xhr.getResponseHeader("BPA-Made-At")) ? every() : pace());
  });

  document.addEventListener("click", async (event) => {
    const button = event.target.closest?.("[data-copy]");
    if (!button) return;
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
      tell("Copied");
      button.classList.add("copied");
      setTimeout(() => button.classList.remove("copied"), 1200);
    } catch {
      tell("This browser does not allow copying here");
    }
  });

  const retry = document.querySelector("[data-retry]");
  if (retry) setTimeout(() => location.replace(location.href), Number(retry.dataset.retry) * 1000);

  said = live()?.dataset.say ?? null;
  show();
  connect();
  plan(pace());
})();

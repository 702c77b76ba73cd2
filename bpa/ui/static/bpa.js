// What makes pages live: when to ask again, saying so, and copying. Pages work without it.
//
// The living part of a page (#live) asks for itself again when the body hears bpa:refresh. That is
// sent at the part's own pace (data-every, seconds; 0: never), not while the tab is hidden or the
// reader has paused, and slower while control does not answer.
(() => {
  "use strict";
  const root = document.documentElement;
  root.classList.add("js");
  const pulse = document.getElementById("pulse");
  const pause = document.getElementById("pause");
  const say = document.getElementById("say");
  const slowest = 30;
  let paused = sessionStorage.getItem("bpa-paused") === "1";
  let failures = 0;
  let timer = 0;
  let shown = "";

  const live = () => document.getElementById("live");
  const every = () => Number(live()?.dataset.every ?? 0);

  function tell(text) {
    if (say && say.textContent !== text) say.textContent = text;
  }

  function show() {
    if (!pulse) return;
    pulse.hidden = !every();
    const state = failures ? "lost" : paused ? "paused" : "live";
    const words = { lost: "no answer, trying again", paused: "paused", live: "live" };
    const place = pulse.querySelector(".beat");
    if (place.dataset.state !== state && (failures || place.dataset.state === "lost")) {
      tell(failures ? "Control does not answer; trying again" : "Live again");
    }
    place.dataset.state = state;
    place.textContent = words[state];
    pause.setAttribute("aria-pressed", String(paused));
    pause.querySelector("span").textContent = paused ? "Resume" : "Pause";
  }

  function plan(soon) {
    clearTimeout(timer);
    if (!every() || paused || document.hidden) return;
    const wait = soon ? 0 : Math.min(slowest, every() * 2 ** Math.min(failures, 4));
    timer = setTimeout(() => document.body.dispatchEvent(new Event("bpa:refresh")), wait * 1000);
  }

  pause?.addEventListener("click", () => {
    paused = !paused;
    sessionStorage.setItem("bpa-paused", paused ? "1" : "0");
    tell(paused ? "Paused: this page changes no more by itself" : "Live again");
    show();
    plan(true);
  });
  document.addEventListener("visibilitychange", () => plan(true));

  // A part that says the same is left as it is; what is open in it, or focused, stays so.
  document.addEventListener("htmx:beforeSwap", (event) => {
    if (event.detail.target?.id !== "live") return;
    if (event.detail.xhr.responseText === shown) event.detail.shouldSwap = false;
    shown = event.detail.xhr.responseText;
    const open = [...live().querySelectorAll("details[open][id]")].map((one) => one.id);
    const scrolled = [...live().querySelectorAll(".scroll")].map((one) => one.scrollLeft);
    event.detail.bpa = { open, scrolled };
    kept = event.detail.bpa;
  });
  let kept = { open: [], scrolled: [] };
  document.addEventListener("htmx:afterSwap", () => {
    for (const id of kept.open) document.getElementById(id)?.setAttribute("open", "");
    live()?.querySelectorAll(".scroll").forEach((one, at) => {
      one.scrollLeft = kept.scrolled[at] ?? 0;
    });
  });
  document.addEventListener("htmx:afterRequest", (event) => {
    const before = tell.last;
    failures = event.detail.successful ? 0 : failures + 1;
    const now = live()?.dataset.say ?? "";
    if (event.detail.successful && before !== undefined && before !== now) tell(now);
    tell.last = now;
    show();
    plan(false);
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

  tell.last = live()?.dataset.say;
  show();
  plan(false);
})();

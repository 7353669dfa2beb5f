"use strict";
// Every few seconds the page is asked for again, and the parts of it that have changed are put in place.
const PAUSE = 3000;
const shown = new Map();
for (const part of document.querySelectorAll("[data-live]")) shown.set(part.id, part.innerHTML);

async function refresh() {
  const answer = await fetch(location.href, {cache: "no-store"});
  if (answer.status === 401) return location.reload();
  if (!answer.ok) throw new Error(answer.statusText);
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  document.title = fresh.title;
  for (const [id, before] of shown) {
    const part = document.getElementById(id), other = fresh.getElementById(id);
    // Compared with what came last, not with what is there: somebody may have opened a part of it. And a part
    // with the focus stays, or whoever uses the keyboard would be thrown out of it.
    if (!other || other.innerHTML === before || part.contains(document.activeElement)) continue;
    shown.set(id, other.innerHTML);
    part.replaceChildren(...other.childNodes);
    if (part.querySelector("#playground")) offerPlayground();
  }
}

// The playground is the model server's, if one runs at this address and has the adapter.
async function offerPlayground() {
  const link = document.getElementById("playground");
  const answer = link && await fetch("/v1/models/" + encodeURIComponent(link.dataset.model)).catch(() => null);
  if (answer) link.hidden = !(answer.ok || answer.status === 401);
}

async function keepUp() {
  if (!document.hidden) {
    const lost = document.getElementById("lost");
    try {
      await refresh();
      lost.hidden = true;
    } catch {
      lost.hidden = false;
    }
  }
  setTimeout(keepUp, PAUSE);
}
setTimeout(keepUp, PAUSE);
offerPlayground();

/** The page's one live region. A screen reader misses a text in an element that appears with it. */

const region = document.getElementById("announcer");
let timer = 0;

/** Says a text politely, also if it is the one that was said last. */
export function announce(text) {
  clearTimeout(timer);
  region.textContent = "";
  timer = setTimeout(() => {
    region.textContent = text;
  }, 50);
}

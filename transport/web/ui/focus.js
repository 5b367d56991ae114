/** Where the keyboard goes: to the world, unless the user is at a control. */

const world = document.getElementById("world");

export function focusWorld() {
  world.focus({ preventScroll: true });
}

/**
 * Gives the keyboard back to the world after each choice by pointer. After a choice by keyboard the
 * control keeps it, because each arrow is a choice and another one may follow.
 */
export function returnAfterPointer(control) {
  let byPointer = false;
  control.addEventListener("pointerdown", () => {
    byPointer = true;
  });
  control.addEventListener("keydown", () => {
    byPointer = false;
  });
  control.addEventListener("change", () => {
    if (byPointer) focusWorld();
  });
}

/** Marks the page while Tab moves the focus, so that the world is framed then, and not in a walk. */
export function markTabbing() {
  window.addEventListener("keydown", ({ key }) => {
    document.body.toggleAttribute("data-tabbing", key === "Tab");
  });
}

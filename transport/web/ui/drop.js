/** Files that are dropped anywhere on the page. */

/** onFile(file): called with the first file of each drop. Dragged text is left to its field. */
export function takeDrops(onFile) {
  const mark = (isOver) => document.body.toggleAttribute("data-drop", isOver);
  window.addEventListener("dragstart", (event) => {
    if (event.target instanceof HTMLImageElement) event.preventDefault(); // it would come back as a file
  });
  window.addEventListener("dragover", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault(); // else the browser opens the file in place of the page
    mark(true);
  });
  window.addEventListener("dragleave", ({ relatedTarget }) => {
    if (relatedTarget === null) mark(false); // it left the window
  });
  window.addEventListener("drop", (event) => {
    mark(false);
    const [file] = event.dataTransfer.files;
    if (file === undefined) return;
    event.preventDefault();
    onFile(file);
  });
}

// What makes the page easier to read; without it everything is still there, the contents open and the tables as they are.
"use strict";
(() => {
  const FILTERED = 30; // rows from which a table can be filtered
  const contents = document.querySelector("nav details"), wide = matchMedia("(min-width: 1200px)");
  const fold = () => { contents.open = wide.matches; };
  wide.addEventListener("change", fold);
  contents.addEventListener("click", ({ target }) => target.tagName === "A" && fold());
  fold();

  // the section that is read stands out in the contents
  const links = new Map([...contents.querySelectorAll("a")].map((link) => [link.hash.slice(1), link]));
  const reading = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) links.get(target.id).ariaCurrent = isIntersecting ? "true" : null;
  }, { rootMargin: "-20% 0px -75% 0px" });
  for (const id of links.keys()) reading.observe(document.getElementById(id));

  // an address inside something folded unfolds it
  const unfold = () => document.getElementById(decodeURIComponent(location.hash.slice(1)))?.closest("details")?.setAttribute("open", "");
  addEventListener("hashchange", unfold);
  unfold();

  // on paper nothing is folded
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("main details:not([open])")];
    for (const one of folded) one.open = true;
  });
  addEventListener("afterprint", () => { for (const one of folded) one.open = false; });

  // boxes that scroll can be reached by keyboard
  const boxes = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const scrolls = target.scrollWidth > target.clientWidth + 1 || target.scrollHeight > target.clientHeight + 1;
      if (scrolls) target.tabIndex = 0; else target.removeAttribute("tabindex");
    }
  });
  for (const box of document.querySelectorAll(".scroll, .said")) boxes.observe(box);

  /** What a cell is sorted by: its first number where the column holds numbers, else its text. */
  function value(row, column) {
    const text = row.cells[column].textContent.trim().replaceAll("−", "-").replaceAll(",", "");
    const number = parseFloat(text.replace(/^<\s*/, ""));
    return row.cells[column].classList.contains("text") ? text.toLowerCase() : Number.isNaN(number) ? -Infinity : number;
  }

  function sort(table, column) {
    const head = table.tHead.rows[0].cells[column], body = table.tBodies[0];
    const up = head.ariaSort === null ? head.classList.contains("text") : head.ariaSort === "descending"; // numbers: largest first
    for (const cell of table.tHead.rows[0].cells) cell.ariaSort = null;
    head.ariaSort = up ? "ascending" : "descending";
    const order = new Intl.Collator("en", { numeric: true });
    const rows = [...body.rows].map((row) => [value(row, column), row]);
    rows.sort(([one], [other]) => (up ? 1 : -1) * (typeof one === "string" ? order.compare(one, other) : one === other ? 0 : one - other));
    body.append(...rows.map(([, row]) => row));
  }

  /** A field above the table that keeps the rows with all of its words. */
  function filter(table) {
    const field = document.createElement("input");
    Object.assign(field, { type: "search", ariaLabel: "Filter the rows", placeholder: "filter rows: words, values" });
    const count = document.createElement("span"), bar = document.createElement("p");
    bar.className = "filter";
    count.setAttribute("role", "status");
    bar.append(field, count);
    table.closest(".scroll").before(bar);
    field.addEventListener("input", () => {
      const words = field.value.toLowerCase().split(/\s+/).filter(Boolean), rows = [...table.tBodies[0].rows];
      for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
      count.textContent = words.length ? `${rows.filter((row) => !row.hidden).length} of ${rows.length}` : "";
    });
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => sort(table, column));
    });
    if (table.tBodies[0].rows.length >= FILTERED) filter(table);
  }
})();

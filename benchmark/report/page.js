"use strict";
// Sorting, filtering, and the configuration behind a figure. Without it the page is complete: links lead to the
// configurations at its end.
(() => {
  const words = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

  // One way to the next: as the figures come (largest first), the other way, as it was.
  const sort = (button) => {
    const head = button.parentElement;
    const table = head.closest("table");
    const body = table.tBodies[0];
    if (!body) return;
    const column = head.cellIndex;
    const figures = head.classList.contains("n");
    const ways = figures ? ["descending", "ascending"] : ["ascending", "descending"];
    const way = ways[ways.indexOf(head.getAttribute("aria-sort")) + 1];
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    if (way) head.setAttribute("aria-sort", way);
    const sign = way === "descending" ? -1 : 1;
    const keyed = [...body.rows].map((row) => {
      row.dataset.place ??= String(row.sectionRowIndex);
      const cell = row.cells[column];
      const text = cell.textContent.trim();
      const key = !way ? Number(row.dataset.place) : figures ? Number(cell.dataset.n ?? (text || NaN)) : text;
      return { row, key, none: way && (figures ? Number.isNaN(key) : text === "" || text === "n/a") };
    });
    keyed.sort((a, b) => {
      if (a.none || b.none) return (a.none ? 1 : 0) - (b.none ? 1 : 0);
      return sign * (typeof a.key === "number" ? a.key - b.key : words.compare(a.key, b.key));
    });
    body.append(...keyed.map((one) => one.row));
  };

  const sections = [...document.querySelectorAll(".section")].map((section) => ({
    section,
    item: document.querySelector(`nav a[href="#${CSS.escape(section.id)}"]`)?.parentElement,
    title: section.querySelector("h3").textContent.toLowerCase(),
    choices: section.querySelector(".choices"),
    blocks: [...section.querySelectorAll(".block")].map((block) => ({
      block,
      title: block.querySelector("h4").textContent.toLowerCase(),
      limited: Object.fromEntries([...block.querySelectorAll("th[data-limit]")].map((head) => [head.dataset.limit, head.cellIndex])),
      rows: [...block.querySelectorAll("tbody tr")].map((row) => ({ row, text: row.textContent.toLowerCase() })),
    })),
  }));

  // A number, or a time such as 90s, 10m, 2h; NaN for anything else.
  const amount = (text) => {
    const found = /^([\d,]*\.?\d+)\s*([smhd]?)$/.exec(text.trim().toLowerCase());
    return found ? Number(found[1].replaceAll(",", "")) * { "": 1, s: 1, m: 60, h: 3600, d: 86400 }[found[2]] : NaN;
  };

  // What a reader chose among the tables and rows of a section: whether a table, and whether a row of it, stays.
  const chosen = (choices) => {
    const facets = [...(choices?.querySelectorAll("select") ?? [])].filter((select) => select.value);
    const limits = [...(choices?.querySelectorAll("input") ?? [])].flatMap((input) => {
      const most = amount(input.value);
      input.setAttribute("aria-invalid", String(input.value.trim() !== "" && Number.isNaN(most)));
      return Number.isNaN(most) ? [] : [{ name: input.dataset.limit, most }];
    });
    return {
      any: facets.length + limits.length > 0,
      table: (block) => facets.every((select) => block.getAttribute(`data-facet-${select.dataset.facet}`) === select.value),
      row: (row, limited) =>
        limits.every(({ name, most }) => {
          const cell = row.cells[limited[name]];
          return cell !== undefined && Number(cell.dataset.n ?? (cell.textContent.trim() || NaN)) <= most;
        }),
    };
  };

  // A row stays if each word stands in it, in the title of its table or of its section, and it is among the chosen.
  const filter = (wanted) => {
    const asked = wanted.toLowerCase().split(/\s+/).filter(Boolean);
    const left = (text) => asked.filter((word) => !text.includes(word));
    let seen = 0;
    for (const { section, item, title, choices, blocks } of sections) {
      const choice = chosen(choices);
      let shown = left(title).length === 0 || choice.any;
      let inSection = 0;
      for (const { block, title: own, limited, rows } of blocks) {
        const table = choice.table(block);
        let here = 0;
        for (const { row, text } of rows) {
          row.hidden = left(`${title} ${own} ${text}`).length > 0 || !table || !choice.row(row, limited);
          here += row.hidden ? 0 : 1;
        }
        block.hidden = here === 0;
        inSection += here;
        shown ||= here > 0;
      }
      seen += inSection;
      if (choices) choices.querySelector("output").textContent = choice.any ? `${inSection} row${inSection === 1 ? "" : "s"}` : "";
      section.hidden = !shown;
      if (item) item.hidden = !shown;
    }
    for (const heading of document.querySelectorAll("main > h2")) {
      let next = heading.nextElementSibling;
      let any = false;
      for (; next?.classList.contains("section"); next = next.nextElementSibling) any ||= !next.hidden;
      heading.hidden = !any;
    }
    document.body.classList.toggle("filtered", asked.length > 0);
    document.getElementById("matches").textContent = asked.length ? `${seen} row${seen === 1 ? "" : "s"}` : "";
  };

  const dialog = document.getElementById("dialog");
  const open = (id) => {
    const config = document.getElementById(id);
    document.getElementById("dialog-name").textContent = config.querySelector("summary").textContent;
    document.getElementById("dialog-body").replaceChildren(config.querySelector(".inside").cloneNode(true));
    dialog.showModal();
    dialog.scrollTop = 0;
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest("thead button");
    if (button) sort(button);
    const figure = event.target.closest('tbody a[href^="#"]');
    if (figure && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
      event.preventDefault();
      open(figure.hash.slice(1));
    }
    if (event.target === dialog || event.target.id === "dialog-close") dialog.close();
  });

  // One stop of the Tab key a row is enough.
  for (const label of document.querySelectorAll("tbody th a")) {
    for (const figure of label.closest("tr").querySelectorAll("td a")) {
      if (figure.hash === label.hash) figure.tabIndex = -1;
    }
  }

  const field = document.getElementById("filter");
  field.parentElement.hidden = false;
  field.addEventListener("input", () => filter(field.value));
  for (const { choices } of sections) {
    if (!choices) continue;
    choices.hidden = false;
    choices.addEventListener("input", () => filter(field.value));
  }

  const wide = matchMedia("(min-width: 72rem)");
  const contents = document.querySelector("nav details");
  const fold = () => (contents.open = wide.matches);
  wide.addEventListener("change", fold);
  fold();

  // A link to a configuration from elsewhere opens it.
  const reveal = () => {
    const target = document.getElementById(location.hash.slice(1));
    if (target?.matches("details.config")) target.open = true;
  };
  addEventListener("hashchange", reveal);
  reveal();
})();

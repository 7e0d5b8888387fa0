// What the page does in the browser itself: photos dropped, pasted and chosen; the window of one result; keys.
// Everything else is decided on the server (page_events.py). Markup says by data-do what a click asks for.

(() => {
  const asked = (element, trigger, names) => {
    element.addEventListener("click", (event) => {
      const target = event.target.closest("[data-do]");
      if (target && names.includes(target.dataset.do)) trigger(target.dataset.do, { ...target.dataset });
    });
  };

  // The reference photo: sent as it is, kept in the server's memory only.
  const photo = (element, trigger, names) => {
    asked(element, trigger, names);
    const refuse = (sentence) => trigger("refused", { sentence });
    const send = async (file) => {
      const drop = element.querySelector(".fafa-card");
      const most = Number(drop.dataset.mostBytes);
      if (most && file.size > most)
        return refuse(`${file.name} has ${Math.ceil(file.size / 1e6)} MB; a photo may have ${Math.floor(most / 1e6)} MB at most.`);
      drop.classList.add("uploading");
      try {
        const answer = await fetch("api/uploads", {
          method: "POST", body: file, headers: { "Content-Type": file.type || "application/octet-stream" },
        });
        const told = await answer.json();
        if (answer.ok) trigger("uploaded", { id: told.id, name: file.name });
        else refuse(typeof told.detail === "string" ? told.detail : "The server refused this file.");
      } catch {
        refuse("The photo could not be sent: the server is not reachable, or it refused the file.");
      } finally {
        drop.classList.remove("uploading");
      }
    };
    element.addEventListener("change", (event) => {
      if (event.target.type === "file" && event.target.files.length) send(event.target.files[0]);
      event.target.value = "";
    });
    const images = (transfer) => [...(transfer?.files ?? [])];
    // A drop anywhere on the page counts: a near miss would otherwise make the browser leave the page.
    document.addEventListener("dragover", (event) => {
      if (![...event.dataTransfer.types].includes("Files")) return;
      event.preventDefault();
      element.classList.add("dragged");
    });
    document.addEventListener("dragleave", (event) => {
      if (!event.relatedTarget) element.classList.remove("dragged");
    });
    document.addEventListener("drop", (event) => {
      const files = images(event.dataTransfer);
      element.classList.remove("dragged");
      if (!files.length) return;
      event.preventDefault();
      send(files[0]);
    });
    document.addEventListener("paste", (event) => {
      const files = images(event.clipboardData);
      const types = event.clipboardData.types;
      // Office programs copy words with a picture of them: the words are meant.
      if (!files.length || (types.includes("text/plain") && types.includes("text/html"))) return;
      event.preventDefault();
      send(files[0]);
    });
  };

  // A sentence to the reader: brought into view, wherever on a small screen it was called for.
  const message = (element, trigger, names, watch) => {
    watch("value", () => element.querySelector(".fafa-message")?.scrollIntoView({ block: "nearest" }));
  };

  // Wishes: a weight that is changed; one that is none goes back to what it was, which is what is asked.
  const wishes = (element, trigger, names) => {
    asked(element, trigger, names);
    element.addEventListener("change", (event) => {
      const { weight: number } = event.target.dataset;
      if (number === undefined) return;
      trigger("weighed", { number, weight: event.target.value });
      if (!(event.target.value > 0 && event.target.value <= 100)) event.target.value = event.target.defaultValue;
    });
  };

  // Results: the address bar always holds the link that repeats the query, and "back" leads to the query before.
  const results = (element, trigger, names, watch) => {
    asked(element, trigger, names);
    let answer;
    const link_in_address = () => new URLSearchParams(location.search).get("q") ?? "";
    window.addEventListener("popstate", () => trigger("followed", { q: link_in_address() }));
    watch("value", () => {
      const told = element.querySelector("[data-link]");
      if (told.dataset.q !== link_in_address())
        history.pushState(null, "", told.dataset.link || location.pathname);
      const is_new = told.dataset.answer && told.dataset.answer !== answer;
      answer = told.dataset.answer;
      if (is_new && matchMedia("(max-width: 900px)").matches) told.scrollIntoView({ block: "start" });
    });
    element.addEventListener("click", async (event) => {
      const button = event.target.closest("[data-copy]");
      if (!button) return;
      const link = new URL(button.dataset.copy, location.href).href;
      try {
        await navigator.clipboard.writeText(link);
        button.querySelector("span").textContent = "Link copied";
      } catch {
        window.prompt("The link that repeats this query:", link);
      }
    });
    element.addEventListener("keydown", (event) => {
      const card = event.target.closest(".hit");
      if (!card || event.ctrlKey || event.metaKey || event.altKey) return;
      const cards = [...element.querySelectorAll(".hit")];
      const columns = cards.filter((other) => other.offsetTop === cards[0].offsetTop).length;
      const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
      if (step) {
        const next = cards[cards.indexOf(card) + step];
        if (next) next.querySelector(".look").focus();
        event.preventDefault();
      } else {
        const what = { r: "right", w: "wrong", m: "refined" }[event.key];
        if (what && names.includes(what)) trigger(what, { id: card.dataset.id });
      }
    });
  };

  // A film at its moment: where its clock begins late, a browser learns only by and by that there is such a moment.
  const film = (video) => {
    const moment = Number(video.src.split("#t=")[1]);
    const loading = ["loadedmetadata", "durationchange", "loadeddata", "canplay"];
    let tries = 20;  // each of which may end at the end that the browser knows so far
    const seek = () => { if (Math.abs(video.currentTime - moment) > 0.1 && tries-- > 0) video.currentTime = moment; };
    loading.forEach((name) => video.addEventListener(name, seek));
    const leave = () => loading.forEach((name) => video.removeEventListener(name, seek));
    ["play", "pointerdown", "keydown"].forEach((name) => video.addEventListener(name, leave));
    video.addEventListener("error", () => {
      video.hidden = true;
      video.parentElement.querySelector(".unplayed").hidden = false;
    });
  };

  // One result in full: a modal window of the browser's own, which keeps the keys within and closes by Escape.
  const details = (element, trigger, names, watch) => {
    const dialog = document.createElement("dialog");
    dialog.className = "fafa fafa-details";
    dialog.setAttribute("aria-labelledby", "fafa-details-title");
    element.closest(".gradio-container").append(dialog);
    asked(dialog, trigger, names);
    let last;
    const show = () => {
      const shown = element.querySelector(".details");
      if (!shown) return dialog.open && dialog.close();
      const held = dialog.contains(document.activeElement) ? document.activeElement.dataset.do : null;
      dialog.replaceChildren(shown.cloneNode(true));
      const video = dialog.querySelector("video");
      if (video) film(video);
      last = shown.dataset.id;
      if (!dialog.open) dialog.showModal();
      dialog.querySelector(held ? `[data-do="${held}"]` : '[data-do="closed"]')?.focus();
    };
    watch("value", show);
    dialog.addEventListener("click", (event) => { if (event.target === dialog) trigger("closed"); });
    dialog.addEventListener("cancel", () => trigger("closed"));
    dialog.addEventListener("close", () => document.querySelector(`.hit[data-id="${last}"] .look`)?.focus());
    dialog.addEventListener("keydown", (event) => {
      if (event.target.matches("input, video") || event.ctrlKey || event.metaKey || event.altKey) return;
      const key = { ArrowRight: "next", ArrowLeft: "previous", r: "right", w: "wrong", m: "refined", h: "heated" }[event.key];
      if (!key) return;
      dialog.querySelector(`[data-do="${key}"]`)?.click();
      event.preventDefault();
    });
  };

  // Light and dark: as the system has it, until somebody chooses.
  const header = (element, trigger, names) => {
    asked(element, trigger, names);
    const chosen = localStorage.getItem("fafa-look");
    if (chosen) document.body.classList.toggle("dark", chosen === "dark");
    element.addEventListener("click", (event) => {
      if (!event.target.closest("[data-look]")) return;
      const dark = document.body.classList.toggle("dark");
      localStorage.setItem("fafa-look", dark ? "dark" : "light");
    });
  };

  // What folds says whether it is open: gradio's own buttons show it by an arrow alone.
  const folds = () => document.querySelectorAll("button.label-wrap").forEach(
    (button) => button.setAttribute("aria-expanded", button.classList.contains("open")));
  new MutationObserver(folds).observe(document.documentElement, { subtree: true, childList: true, attributeFilter: ["class"] });

  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.target.matches("input, textarea, select, [contenteditable]")) return;
    document.querySelector("#fafa-sentence textarea, #fafa-sentence input")?.focus();
    event.preventDefault();
  });

  window.fafa = { asked, photo, message, wishes, results, details, header };
})();

/* The page: uploads, the queue, and the player of one song at a time. */
"use strict";

const $ = (id) => document.getElementById(id);
const BINS = 1000; // of a waveform
const cards = new Map(); // by the song's identifier
const OPTIONS = ["model", "overlap", "shifts", "codec", "bits", "bitrate"];
const SILENCE = "The server does not answer. Is 'spleeter web' still running?";
let models = [];
let codecs = {};
let mostBytes = Infinity; // of a song
let active = null; // the card whose player is open
let chosen = false; // the user has opened or closed a player

/** Print for people who see, and read out for those who do not. */
function tell(text) {
  $("status").textContent = text;
}

/** The JSON of a response; an error has the server's sentence. */
async function ask(path, options) {
  const response = await fetch(path, options).catch(() => { throw new Error(SILENCE); });
  if (response.status === 204) return null;
  const content = await response.json().catch(() => ({ error: `error ${response.status}` }));
  if (!response.ok) throw Object.assign(new Error(content.error), { status: response.status });
  return content;
}

/* === Options === */

function remember() {
  const values = Object.fromEntries(OPTIONS.map((id) => [id, $(id).value]));
  values.without = [...document.querySelectorAll("#instruments input:not(:checked)")]
    .map((box) => box.value);
  try {
    localStorage.setItem("spleeter-2", JSON.stringify(values));
  } catch { /* the browser keeps nothing */ }
}

function remembered() {
  try {
    return JSON.parse(localStorage.getItem("spleeter-2")) || {};
  } catch {
    return {};
  }
}

function showModel(without = []) {
  const model = models.find(({ name }) => name === $("model").value);
  $("description").textContent = model.description
    + (model.is_here ? "" : " Its weights are fetched from github.com at first use.");
  $("instruments").replaceChildren(...model.instruments.map((name) =>
    element("label", {}, element("input", {
      type: "checkbox", value: name, checked: !without.includes(name),
    }), ` ${name}`)));
}

function showCodec() {
  const bits = codecs[$("codec").value];
  const before = $("bits").value;
  $("bits").replaceChildren(...bits.map((name) =>
    element("option", { value: name, textContent: name === "32f" ? "32, float" : name })));
  if (bits.includes(before)) $("bits").value = before;
  $("bits").disabled = !bits.length;
  $("bitrate").disabled = bits.length > 0;
  cards.forEach((card) => card.showDownloads());
}

async function showOptions() {
  const found = await ask("api/models");
  ({ models, codecs, max_size: mostBytes } = found);
  $("model").append(...models.map(({ name }) => element("option", { textContent: name })));
  $("codec").append(...Object.keys(codecs).map((name) => element("option", { textContent: name })));
  const values = remembered();
  for (const id of OPTIONS) {
    if (id === "bits") showCodec();
    const field = $(id);
    if (values[id] === undefined) continue;
    const offered = !field.options || [...field.options].some(({ value }) => value === values[id]);
    if (offered) field.value = values[id];
  }
  showModel(values.without);
  showCodec();
  $("form").addEventListener("change", (event) => {
    if (event.target.id === "files") return;
    if (event.target.id === "model") showModel();
    if (event.target.id === "codec") showCodec();
    cards.forEach((card) => card.showDownloads());
    remember();
  });
}

/** Parameters of a download. */
function format() {
  const codec = $("codec").value;
  const values = { codec };
  if (codecs[codec].length) values.bits = $("bits").value;
  else values.bitrate = $("bitrate").value;
  return new URLSearchParams(values);
}

/* === Uploads === */

async function upload(file) {
  const boxes = [...document.querySelectorAll("#instruments input")];
  const stems = boxes.filter((box) => box.checked).map((box) => box.value);
  if (!stems.length) return tell("Choose an instrument first.");
  const values = { name: file.name, model: $("model").value };
  if (stems.length < boxes.length) values.stems = stems.join(",");
  for (const id of ["overlap", "shifts"]) if ($(id).value) values[id] = $(id).value;
  tell(`${file.name}: sent`);
  try {
    if (file.size > mostBytes) throw new Error(`larger than ${mostBytes / 1e6} MB, the most allowed`);
    const song = await ask(`api/songs?${new URLSearchParams(values)}`, {
      method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" },
    });
    show(song);
  } catch (error) {
    const item = $("card").content.cloneNode(true).firstElementChild;
    item.classList.add("failed");
    item.querySelector("h3").textContent = file.name;
    item.querySelector(".state").textContent = error.message;
    item.querySelector("progress").remove();
    item.querySelector(".open").remove();
    Object.assign(item.querySelector(".remove"), {
      textContent: "Remove", onclick: () => item.remove(),
    });
    $("songs").prepend(item);
    tell(`${file.name}: ${error.message}`);
  }
}

async function uploadAll(files) {
  for (const file of files) await upload(file); // in their order
}

function followDrops() {
  $("files").addEventListener("change", () => {
    uploadAll([...$("files").files]);
    $("files").value = "";
  });
  let depth = 0;
  const mark = (change) => {
    depth = Math.max(0, depth + change);
    $("drop").classList.toggle("over", depth > 0);
  };
  addEventListener("dragenter", (event) => { event.preventDefault(); mark(1); });
  addEventListener("dragleave", () => mark(-1));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    mark(0);
    uploadAll([...event.dataTransfer.files]);
  });
}

/* === Songs === */

/** Read samples of a stem from the server, for a `Player`. */
class Stems {
  constructor(card) {
    this.card = card;
    this.sampleRate = card.song.sample_rate;
    this.stems = card.song.instruments;
  }

  get song() { return this.card.song; }
  ready() { return Math.round(this.song.ready * this.sampleRate); }
  total() { return Math.max(this.ready(), Math.round((this.song.seconds || 0) * this.sampleRate)); }
  isComplete() { return this.song.state === "done"; }

  async read(stem, first, count) {
    const nbChannels = this.song.nb_channels;
    const frame = 4 * nbChannels;
    const start = this.song.data_offset + first * frame;
    const response = await fetch(this.card.url(`stems/${encodeURIComponent(this.stems[stem])}`), {
      headers: { Range: `bytes=${start}-${start + count * frame - 1}` },
    }).catch(() => { throw new Error(SILENCE); });
    if (response.status !== 206) throw new Error("this part cannot be read from the server");
    const samples = new Float32Array(await response.arrayBuffer());
    const channels = Array.from({ length: nbChannels }, () => new Float32Array(count));
    for (let i = 0, n = 0; n < count; n++) {
      for (let c = 0; c < nbChannels; c++) channels[c][n] = samples[i++];
    }
    return channels;
  }
}

class Card {
  constructor(song) {
    this.element = $("card").content.cloneNode(true).firstElementChild;
    this.find = (name) => this.element.querySelector(name);
    this.find("h3").textContent = song.name;
    this.find("progress").setAttribute("aria-label", `Progress of ${song.name}`);
    this.find(".open").onclick = () => {
      chosen = true;
      if (this.view) this.close();
      else this.open();
    };
    this.find(".remove").onclick = () => this.remove();
    this.update(song);
  }

  /** The text of a button, and for screen readers whose it is. */
  label(name, text, rest) {
    this.find(name).textContent = text;
    this.find(name).setAttribute("aria-label", `${text} ${rest}`);
  }

  url(path) {
    return `api/songs/${this.song.id}/${path}`;
  }

  update(song) {
    const before = this.song;
    this.song = song;
    if (song.state === "running" && before?.state !== "running") this.began = performance.now();
    this.element.className = `card ${song.state}`;
    this.find(".state").textContent = this.describe();
    const progress = this.find("progress");
    progress.hidden = song.state === "done" || song.state === "failed";
    progress.value = song.seconds ? Math.min(1, song.ready / song.seconds) : 0;
    this.find(".notes").replaceChildren(
      ...song.notes.map((note) => element("li", { textContent: note })));
    this.find(".open").hidden = !song.ready || song.state === "failed";
    const over = song.state === "done" || song.state === "failed";
    this.label(".remove", over ? "Remove" : "Cancel", song.name);
    this.label(".open", this.view ? "Close player" : "Open player", `of ${song.name}`);
    if (before && before.state !== song.state) tell(`${song.name}: ${this.describe()}`);
    if (song.state === "failed") this.close();
    if (this.view && (before?.ready !== song.ready || before?.state !== song.state)) this.drawPeaks();
    if (!before || before.state !== song.state) this.showDownloads();
    // a short song is done before an event shows that it runs
    const begins = song.state === "running" || (song.state === "done" && before && !before.ready);
    if (song.ready && begins && !active && !chosen) this.open();
  }

  describe() {
    const { state, ready, seconds, error, model } = this.song;
    if (state === "failed") return error;
    if (state === "done") return `${clock(seconds)}, separated by ${model}`;
    if (state === "queued") return "waits for its turn";
    if (!ready) return "begins";
    const elapsed = (performance.now() - this.began) / 1000;
    const left = seconds ? ((seconds - ready) * elapsed) / ready : 0;
    const rest = seconds ? `, about ${clock(Math.ceil(left))} left` : "";
    return `${clock(ready)}${seconds ? ` of ${clock(seconds)}` : ""} separated${rest}`;
  }

  open() {
    if (active) active.close();
    active = this;
    const player = new Player(new Stems(this));
    player.onerror = (error) => tell(`${this.song.name}: ${error.message}`);
    this.view = new PlayerView(player);
    this.addTools(player);
    this.find(".place").append(this.view.element);
    this.label(".open", "Close player", `of ${this.song.name}`);
    this.element.player = player; // for scripts and tests
    this.drawPeaks();
    this.showDownloads();
  }

  addTools(player) {
    const vocals = this.song.instruments.indexOf("vocals");
    if (vocals >= 0 && this.song.instruments.length > 1) {
      const karaoke = element("button", {
        textContent: "Karaoke", type: "button",
        onclick: () => player.set(vocals, { muted: !player.tracks[vocals].muted }),
      });
      this.view.tools.append(karaoke);
      this.view.onupdate = () => {
        karaoke.setAttribute("aria-pressed", player.tracks[vocals].muted);
        this.showMix();
      };
    } else {
      this.view.onupdate = () => this.showMix();
    }
    const pictures = element("button", {
      textContent: "Spectrograms", type: "button", "aria-pressed": "false",
      onclick: () => this.togglePictures(pictures),
    });
    this.view.tools.append(pictures);
    this.view.update();
  }

  togglePictures(button) {
    if (this.song.state !== "done") return tell("Spectrograms can be drawn when the song is done.");
    const on = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", on);
    this.song.instruments.forEach((name, stem) => {
      const { wave } = this.view.rows[stem];
      wave.querySelector("img")?.remove();
      if (!on) return;
      wave.prepend(element("img", {
        alt: `Spectrogram of ${name}`, draggable: false,
        src: this.url(`stems/${encodeURIComponent(name)}/spectrogram`),
      }));
    });
    return undefined;
  }

  close() {
    if (!this.view) return;
    this.view.close();
    this.view = null;
    this.element.player = null;
    if (active === this) active = null;
    this.label(".open", "Open player", `of ${this.song.name}`);
    this.showDownloads();
  }

  async drawPeaks() {
    if (!this.view) return;
    const peaks = await ask(this.url(`peaks?bins=${BINS}`)).catch(() => null);
    if (peaks && this.view) this.view.draw(peaks, BINS);
  }

  showDownloads() {
    const place = this.find(".downloads");
    if (this.song.state !== "done") return place.replaceChildren();
    const link = (path, text) => element("a", {
      href: this.url(path), textContent: text, download: "", className: "download",
    });
    const query = format();
    const links = this.song.instruments.map((name) =>
      link(`stems/${encodeURIComponent(name)}?${query}`, name));
    links.push(link(`stems.zip?${query}`, "all, as ZIP"));
    this.mix = null;
    if (this.view) links.push(this.mix = link("", "this mix"));
    place.replaceChildren(
      element("span", { textContent: `Download as ${query.get("codec").toUpperCase()}:` }), ...links);
    this.showMix();
    return undefined;
  }

  /** Let the link of the mix follow the gains. */
  showMix() {
    if (!this.mix || !this.view) return;
    const gains = this.view.player.gains();
    const query = format();
    query.set("gains", this.song.instruments.map((name, i) => `${name}:${gains[i]}`).join(","));
    this.mix.href = this.url(`mix?${query}`);
  }

  async remove() {
    try {
      await ask(`api/songs/${this.song.id}`, { method: "DELETE" });
      tell(`${this.song.name}: removed`);
    } catch (error) {
      tell(`${this.song.name}: ${error.message}`);
      if (error.status !== 404) return;
    }
    drop(this.song.id);
  }
}

function show(song) {
  const card = cards.get(song.id);
  if (card) {
    card.update(song);
  } else {
    const made = new Card(song);
    cards.set(song.id, made);
    $("songs").prepend(made.element);
  }
  $("none").hidden = cards.size > 0;
}

function drop(id) {
  const card = cards.get(id);
  if (!card) return;
  card.close();
  card.element.remove();
  cards.delete(id);
  $("none").hidden = cards.size > 0;
}

/** Follow the server's events; the browser connects again by itself. */
function follow() {
  const events = new EventSource("api/events");
  events.onmessage = (event) => {
    const { songs, ids } = JSON.parse(event.data);
    for (const id of [...cards.keys()]) if (!ids.includes(id)) drop(id);
    songs.forEach(show);
    if ($("status").textContent.includes(SILENCE)) tell("");
  };
  events.onerror = () => {
    tell(SILENCE);
    // not the case if the server refuses, as one with too many connections does
    if (events.readyState === EventSource.CLOSED) setTimeout(follow, 3000);
  };
}

function followKeys() {
  addEventListener("keydown", (event) => {
    const field = event.target.closest("input, select, textarea");
    const isTaken = field || (event.target.closest("button, a, summary") && event.key === " ");
    if (!active?.view || isTaken || event.ctrlKey || event.metaKey || event.altKey) return;
    if (active.view.key(event)) event.preventDefault();
  });
}

showOptions().then(() => {
  followDrops();
  followKeys();
  follow();
}).catch((error) => tell(error.message));

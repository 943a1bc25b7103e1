/* Plays the stems of a song in sync and shows them in rows: used by the page and by reports. */
"use strict";

const PART = 1; // seconds that are read at a time
const AHEAD = 3; // seconds that are scheduled ahead: timers of hidden pages run once a second
const SHORTEST = 0.1; // seconds of a loop: each pass is read anew
const LATE = 0.06; // seconds between scheduling and sound, after a seek or a gap

/**
 * Schedules short buffers of all stems at the same times, so that they are in sync to the sample,
 * and only a few seconds are in memory.
 *
 * `source`: { sampleRate, stems: [name], ready() and total() in samples, isComplete(),
 *   read(stem, first, count): Promise of one Float32Array per channel }
 */
class Player {
  constructor(source) {
    this.source = source;
    this.playing = false;
    this.waiting = false;
    this.loop = null; // [first, end] in samples
    this.onchange = () => {};
    this.onerror = () => {};
    this.tracks = source.stems.map(() => ({ volume: 1, muted: false, solo: false }));
    this._start = 0; // samples: where play begins
    this._generation = 0;
    this._parts = []; // scheduled: { when, first, count, nodes }
  }

  /** Position in samples. */
  get position() {
    if (!this.playing) return this._start;
    const now = this.context.currentTime;
    while (this._parts.length > 1 && this._parts[1].when <= now) this._parts.shift();
    if (!this._parts.length) return this._next;
    const { when, first, count } = this._parts[0];
    const elapsed = Math.max(0, now - when) * this.source.sampleRate;
    return Math.round(first + Math.min(elapsed, count));
  }

  /** Gain of each stem, after mute and solo. */
  gains() {
    const anySolo = this.tracks.some((track) => track.solo);
    return this.tracks.map(({ volume, muted, solo }) =>
      anySolo ? (solo ? volume : 0) : muted ? 0 : volume);
  }

  /** Change a stem's `volume`, `muted` or `solo`. */
  set(stem, change) {
    Object.assign(this.tracks[stem], change);
    if (this.context) {
      this.gains().forEach((gain, i) =>
        this._gains[i].gain.setTargetAtTime(gain, this.context.currentTime, 0.01));
    }
    this.onchange();
  }

  async play() {
    if (this.playing) return;
    if (!this.context) this._open();
    if (this._start >= this._end()) this._start = 0;
    this.playing = true;
    this._restart(this._start);
    this.onchange();
    await this.context.resume();
    this._fill();
  }

  pause() {
    if (!this.playing) return;
    this._start = this.position;
    this.playing = this.waiting = false;
    this._silence();
    this.context.suspend();
    this.onchange();
  }

  /** Go to a position in samples. */
  seek(position) {
    this._start = Math.round(Math.max(0, Math.min(position, this.source.total() - 1)));
    if (this.playing) {
      this._restart(this._start);
      this._fill();
    }
    this.onchange();
  }

  /** Repeat a part, or nothing without arguments. */
  setLoop(first, end) {
    this.loop = first === undefined ? null : [Math.round(first), Math.round(end)];
    if (this.loop) this.seek(this.loop[0]);
    else if (this.playing) this.seek(this.position); // what is scheduled would jump
    this.onchange();
  }

  close() {
    this.pause();
    clearInterval(this._timer);
    if (this.context) this.context.close();
    this.context = null;
  }

  _open() {
    try {
      this.context = new AudioContext({ sampleRate: this.source.sampleRate });
    } catch {
      this.context = new AudioContext(); // a rate that the browser cannot play: it resamples
    }
    this.output = this.context.createGain();
    this.output.connect(this.context.destination);
    this._gains = this.gains().map((gain) => {
      const node = this.context.createGain();
      node.gain.value = gain;
      node.connect(this.output);
      return node;
    });
    this._timer = setInterval(() => this._fill(), 100);
  }

  _end() {
    return this.source.isComplete() ? this.source.total() : Infinity;
  }

  _restart(position) {
    this._silence();
    this._next = position; // samples: what is scheduled next, and when
    this._when = this.context.currentTime + LATE;
  }

  _silence() {
    this._generation++;
    for (const part of this._parts) part.nodes.forEach((node) => node.stop());
    this._parts = [];
  }

  /** First sample and length of the next part. */
  _choose() {
    let first = this._next;
    let end = Math.min(this.source.ready(), this._end());
    if (this.loop) {
      if (first >= this.loop[1]) first = this.loop[0];
      if (first < this.loop[1]) end = Math.min(end, this.loop[1]);
    }
    // short at first, so that the sound begins at once
    const part = this._parts.length ? PART : PART / 4;
    const most = Math.ceil(part * this.source.sampleRate);
    return [first, Math.max(0, Math.min(end - first, most))];
  }

  async _fill() {
    if (this._filling || !this.playing) return;
    this._filling = true;
    const generation = this._generation;
    const { context, source } = this;
    try {
      while (generation === this._generation && this._when - context.currentTime < AHEAD) {
        const [first, count] = this._choose();
        if (!count) {
          this._pauseForMore();
          break;
        }
        const waveforms = await Promise.all(
          source.stems.map((_, stem) => source.read(stem, first, count)));
        if (generation !== this._generation) break;
        this._schedule(waveforms, first, count);
      }
    } catch (error) {
      if (generation === this._generation) {
        this.pause();
        this.onerror(error);
      }
    } finally {
      this._filling = false;
      if (this.playing && generation !== this._generation) this._fill();
    }
  }

  _schedule(waveforms, first, count) {
    const { context, source } = this;
    this._when = Math.max(this._when, context.currentTime + LATE / 2);
    const nodes = waveforms.map((channels, stem) => {
      const buffer = context.createBuffer(channels.length, count, source.sampleRate);
      channels.forEach((samples, channel) => buffer.copyToChannel(samples, channel));
      const node = context.createBufferSource();
      node.buffer = buffer;
      node.connect(this._gains[stem]);
      node.start(this._when);
      return node;
    });
    this._parts.push({ when: this._when, first, count, nodes });
    this._when += count / source.sampleRate;
    this._next = first + count;
    if (this.waiting) {
      this.waiting = false;
      this.onchange();
    }
  }

  /** Nothing is left to schedule: the end, or the separation has not come so far. */
  _pauseForMore() {
    if (this._next >= this._end()) {
      if (this.context.currentTime < this._when) return;
      this.pause();
      this._start = 0;
      this.onchange();
    } else if (!this.waiting && this.context.currentTime > this._when) {
      this.waiting = true;
      this.onchange();
    }
  }
}

/** "1:05", of seconds. */
function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  if (!parts[0]) parts.shift();
  return parts.map((part, i) => (i ? String(part).padStart(2, "0") : part)).join(":");
}

/** An element with properties and children. */
function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.includes("-") || key === "role") made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children);
  return made;
}

/**
 * The rows of a player: one per stem, with waveform, mute, solo and volume.
 *
 * `exclusive`: one stem sounds at a time, to compare them.
 */
class PlayerView {
  constructor(player, { exclusive = false } = {}) {
    this.player = player;
    this.exclusive = exclusive;
    this.current = 0; // the row that M mutes
    this.peaks = {};
    this.button = element("button", { className: "play", onclick: () => this.toggle() });
    this.time = element("span", { className: "time" });
    this.slider = element("input", {
      type: "range", className: "position", min: 0, step: 0.1, "aria-label": "Position",
      oninput: () => player.seek(this.slider.value * player.source.sampleRate),
    });
    this.unloop = element("button", { textContent: "End loop", onclick: () => player.setLoop() });
    this.tools = element("div", { className: "tools" },
      this.button, this.time, this.slider, this.unloop);
    this.rows = player.source.stems.map((name, stem) => this._row(name, stem));
    this.element = element("div", { className: "player", role: "group", "aria-label": "Player" },
      this.tools, ...this.rows.map((row) => row.element));
    if (exclusive) player.set(0, { solo: true });
    player.onchange = () => this.update();
    this._observer = new ResizeObserver(() => this.draw());
    this._observer.observe(this.element);
    this.update();
    this._frame();
  }

  close() {
    this._observer.disconnect();
    cancelAnimationFrame(this._request);
    this.player.close();
    this.element.remove();
  }

  toggle() {
    if (this.player.playing) this.player.pause();
    else this.player.play();
  }

  solo(stem) {
    const solo = this.exclusive || !this.player.tracks[stem].solo;
    if (this.exclusive) this.player.tracks.forEach((track) => { track.solo = false; });
    this.current = stem;
    this.player.set(stem, { solo });
  }

  mute(stem) {
    this.current = stem;
    this.player.set(stem, { muted: !this.player.tracks[stem].muted });
  }

  /** Handle a key; true if it has a meaning. */
  key(event) {
    const { source } = this.player;
    const step = { ArrowLeft: -5, ArrowRight: 5 }[event.key];
    const digit = Number(event.key);
    if (event.key === " ") this.toggle();
    else if (step) this.player.seek(this.player.position + step * source.sampleRate);
    else if (digit >= 1 && digit <= source.stems.length) this.solo(digit - 1);
    else if (event.key.toLowerCase() === "m" && !this.exclusive) this.mute(this.current);
    else if (event.key === "Escape" && this.player.loop) this.player.setLoop();
    else return false;
    return true;
  }

  /** Show the state of the player. */
  update() {
    const { player } = this;
    this.button.textContent = player.playing ? "Pause" : "Play";
    this.unloop.hidden = !player.loop;
    this.element.classList.toggle("waiting", player.waiting);
    const gains = player.gains();
    this.rows.forEach((row, stem) => {
      const track = player.tracks[stem];
      row.mute.setAttribute("aria-pressed", track.muted);
      row.solo.setAttribute("aria-pressed", track.solo);
      row.element.classList.toggle("silent", gains[stem] === 0);
      row.region.hidden = !player.loop;
      if (player.loop) {
        row.region.style.left = `${this._share(player.loop[0])}%`;
        row.region.style.width = `${this._share(player.loop[1] - player.loop[0])}%`;
      }
    });
    this.onupdate?.();
  }

  /** Draw the waveforms: peaks from 0 to 255, by stem. */
  draw(peaks = this.peaks, nbBins = this.nbBins) {
    this.peaks = peaks;
    this.nbBins = nbBins;
    this.rows.forEach(({ canvas }, stem) => {
      const levels = peaks[this.player.source.stems[stem]] || [];
      const ratio = devicePixelRatio || 1;
      const width = canvas.width = Math.round(canvas.clientWidth * ratio);
      const height = canvas.height = Math.round(canvas.clientHeight * ratio);
      const context = canvas.getContext("2d");
      context.fillStyle = getComputedStyle(canvas).color;
      for (let x = 0; x < width; x++) {
        const level = levels[Math.floor((x / width) * (nbBins || levels.length))];
        if (level === undefined) break;
        const size = Math.max(ratio, (level / 255) * height);
        context.fillRect(x, (height - size) / 2, 1, size);
      }
    });
  }

  _share(samples) {
    return (100 * samples) / Math.max(1, this.player.source.total());
  }

  _row(name, stem) {
    const { player } = this;
    const mute = element("button", {
      textContent: "Mute", "aria-label": `Mute ${name}`, hidden: this.exclusive,
      onclick: () => this.mute(stem),
    });
    const solo = element("button", {
      textContent: this.exclusive ? "Listen" : "Solo", onclick: () => this.solo(stem),
      "aria-label": `${this.exclusive ? "Listen to" : "Solo"} ${name}`,
    });
    const volume = element("input", {
      type: "range", min: 0, max: 1.5, step: 0.01, value: 1, "aria-label": `Volume of ${name}`,
      hidden: this.exclusive,
      oninput: () => player.set(stem, { volume: Number(volume.value) }),
    });
    const canvas = element("canvas", { role: "img", "aria-label": `Waveform of ${name}` });
    const region = element("div", { className: "region", hidden: true });
    const head = element("div", { className: "head" });
    const wave = element("div", { className: "wave" }, canvas, region, head);
    this._followPointer(wave);
    const controls = element("div", { className: "controls" },
      element("span", { className: "name", textContent: name }), mute, solo, volume);
    const row = element("div", { className: "row", role: "group", "aria-label": name },
      controls, wave);
    row.addEventListener("pointerdown", () => { this.current = stem; });
    row.addEventListener("focusin", () => { this.current = stem; });
    return { element: row, mute, solo, volume, canvas, region, head, wave, controls };
  }

  /** A click seeks; a drag repeats the part that it covers. */
  _followPointer(wave) {
    const { player } = this;
    const place = (event) => {
      const box = wave.getBoundingClientRect();
      const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
      return share * player.source.total();
    };
    let start = null;
    wave.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      wave.setPointerCapture(event.pointerId);
      start = { x: event.clientX, position: place(event) };
    });
    wave.addEventListener("pointerup", (event) => {
      if (!start) return;
      const [first, end] = [start.position, place(event)].sort((a, b) => a - b);
      const isLong = end - first > SHORTEST * player.source.sampleRate;
      if (isLong && Math.abs(event.clientX - start.x) > 5) player.setLoop(first, end);
      else player.seek(end);
      start = null;
    });
    wave.addEventListener("pointercancel", () => { start = null; });
  }

  /** Move the playhead with every picture of the screen. */
  _frame() {
    const { source } = this.player;
    const position = this.player.position;
    const [now, all] = [position, source.total()].map((n) => n / source.sampleRate);
    const text = `${clock(now)} / ${clock(all)}`;
    if (this.time.textContent !== text) this.time.textContent = text;
    this.slider.max = all;
    if (document.activeElement !== this.slider || this.player.playing) this.slider.value = now;
    this.slider.setAttribute("aria-valuetext", `${clock(now)} of ${clock(all)}`);
    for (const { head } of this.rows) head.style.left = `${this._share(position)}%`;
    this._request = requestAnimationFrame(() => this._frame());
  }
}

/* A player for every excerpt: one sound at a time, all at the same place. */
"use strict";

/** Sounds of an excerpt, decoded: the source of a `Player`. */
class Sounds {
  constructor(buffers, names) {
    this.buffers = buffers;
    this.stems = names;
    this.sampleRate = buffers[0].sampleRate;
    this.length = Math.min(...buffers.map((buffer) => buffer.length));
  }

  ready() { return this.length; }
  total() { return this.length; }
  isComplete() { return true; }

  async read(stem, first, count) {
    const buffer = this.buffers[stem];
    return Array.from({ length: buffer.numberOfChannels }, (_, channel) =>
      buffer.getChannelData(channel).slice(first, first + count));
  }

  /** Largest sample of each of `nbBins` parts, 0 to 255, by name. */
  peaks(nbBins) {
    const step = this.length / nbBins;
    return Object.fromEntries(this.buffers.map((buffer, stem) => {
      const samples = buffer.getChannelData(0);
      const levels = Array.from({ length: nbBins }, (_, bin) => {
        let level = 0;
        const end = Math.floor((bin + 1) * step);
        for (let i = Math.floor(bin * step); i < end; i++) {
          level = Math.max(level, Math.abs(samples[i]));
        }
        return Math.round(255 * Math.min(1, level));
      });
      return [this.stems[stem], levels];
    }));
  }
}

async function showExcerpt(place) {
  const { rate, sounds } = JSON.parse(place.querySelector("script").textContent);
  const context = new OfflineAudioContext(2, 1, rate); // decodes at the song's rate
  const buffers = await Promise.all(sounds.map(([, data]) =>
    context.decodeAudioData(Uint8Array.from(atob(data), (c) => c.charCodeAt(0)).buffer)));
  const source = new Sounds(buffers, sounds.map(([name]) => name));
  const view = new PlayerView(new Player(source), { exclusive: true });
  place.append(view.element);
  view.draw(source.peaks(600), 600);
  place.player = view.player; // for scripts and tests
}

for (const place of document.querySelectorAll(".excerpt")) {
  showExcerpt(place).catch((error) => place.append(`These sounds cannot be played: ${error.message}`));
}

// Plays, pauses and steps through the frames.

export class Player {
  constructor(root, frames, labels, onFrame) {
    this.frames = frames;
    this.labels = labels;
    this.frame = 0;
    this.timer = 0;
    this.onFrame = onFrame;
    this.button = root.querySelector("[data-play]");
    this.range = root.querySelector("input");
    this.label = root.querySelector("output");
    this.range.max = frames - 1;
    this.button.addEventListener("click", () => this.toggle());
    root.querySelector("[data-back]").addEventListener("click", () => this.step(-1));
    root.querySelector("[data-next]").addEventListener("click", () => this.step(1));
    this.range.addEventListener("input", () => {
      this.pause();
      this.show(Number(this.range.value));
    });
    root.hidden = frames < 2;
  }

  get playing() {
    return this.timer !== 0;
  }

  toggle() {
    if (this.playing) this.pause();
    else this.play();
  }

  play() {
    if (this.frames < 2 || this.playing) return;
    const milliseconds = this.frames > 16 ? 100 : 300; // the frames of a short clip are usually far apart in time
    this.timer = setInterval(() => this.show((this.frame + 1) % this.frames), milliseconds);
    this.reflect();
  }

  pause() {
    clearInterval(this.timer);
    this.timer = 0;
    this.reflect();
  }

  step(by) {
    this.pause();
    this.show((this.frame + by + this.frames) % this.frames);
  }

  show(frame) {
    this.frame = frame;
    this.reflect();
    this.onFrame(frame);
  }

  reflect() {
    this.range.value = this.frame;
    const label = this.labels[this.frame];
    this.range.setAttribute("aria-valuetext", label || `frame ${this.frame} of ${this.frames}`);
    this.label.textContent = label ? `${label} (${this.frame + 1} of ${this.frames})` : `frame ${this.frame} / ${this.frames - 1}`;
    this.button.setAttribute("aria-label", this.playing ? "Pause" : "Play");
    this.button.classList.toggle("is-playing", this.playing);
  }
}

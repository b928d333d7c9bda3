// Which time is where on the bar: pure arithmetic, in ms.

const STEPS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 3e4, 6e4, 12e4, 3e5, 6e5, 18e5, 36e5, 72e5, 216e5,
  432e5, 864e5, 1728e5, 6048e5, 12096e5, 25920e5, 77760e5, 315360e5];
const LEAST = 0.1;

export class Scale {
  /** All of the history is [oldest, newest]; what is shown, [begin, end], is inside. */
  constructor(oldest, newest) {
    const margin = Math.max((newest - oldest) * 0.01, 1);
    this.oldest = oldest;
    this.newest = newest;
    this.least = oldest - margin;
    this.most = newest + margin;
    this.begin = this.least;
    this.end = this.most;
  }

  get length() { return this.end - this.begin; }
  /** What an arrow key moves by. */
  get step() { return this.length / 120; }
  toX(ms, width) { return (ms - this.begin) / this.length * width; }
  toMs(x, width) { return this.inside(this.begin + x / width * this.length); }
  inside(ms) { return Math.min(this.newest, Math.max(this.oldest, ms)); }
  shows(ms) { return ms >= this.begin && ms <= this.end; }

  /** Zoom by a factor around a time. */
  zoom(factor, around) {
    const length = Math.min(this.most - this.least, Math.max(LEAST, this.length * factor));
    const part = Math.min(1, Math.max(0, (around - this.begin) / this.length));
    this.#show(around - part * length, length);
  }

  /** Move as little as is needed to show a time. */
  reveal(ms) {
    if (ms < this.begin) this.#show(ms - this.length * 0.1, this.length);
    else if (ms > this.end) this.#show(ms - this.length * 0.9, this.length);
  }

  all() { this.#show(this.least, this.most - this.least); }

  #show(begin, length) {
    this.begin = Math.max(this.least, Math.min(begin, this.most - length));
    this.end = this.begin + length;
  }

  /** Times of at most `most` ticks, in steps that people count in. */
  ticks(most) {
    const step = STEPS.find((one) => this.length / one <= most) ?? this.length;
    const zone = step >= 36e5 ? new Date(this.begin).getTimezoneOffset() * 6e4 : 0;
    const found = [];
    for (let at = Math.ceil((this.begin - zone) / step) * step + zone; at <= this.end; at += step) found.push(at);
    return {step, at: found};
  }
}

// The load of each model over the last minutes, from totals that only grow: rates between two looks.

import { WINDOW } from "./chart.js";

// A rate is the mean of so many looks: steps of a batch do not fall evenly between two.
const SMOOTH = 3;

/** One model's history. Samples are {at, rate, running, waiting, first}: seconds, tokens per second, requests, seconds or null. */
export class Load {
  constructor() {
    this.samples = [];
    this.measured = [];
    this.before = new Map();
    this.seen = 0;
  }

  /** What the runtimes say now; `at` in Unix seconds on the server's clock. Each replica counts by itself: one may be new. */
  add(at, replicas) {
    if (at <= this.seen) return;
    const seconds = this.seen ? at - this.seen : 0;
    const told = replicas.filter((replica) => replica.load);
    let [tokens, spent, count] = [0, 0, 0];
    for (const { id, load } of told) {
      const old = this.before.get(id);
      // A runtime that was started again counts from zero.
      if (!old || load.generated < old.generated) continue;
      tokens += load.generated - old.generated;
      spent += load.first_token_seconds - old.first_token_seconds;
      count += load.first_token_count - old.first_token_count;
    }
    const sum = (name) => told.reduce((all, { load }) => all + (load[name] ?? 0), 0);
    this.before = new Map(told.map(({ id, load }) => [id, load]));
    this.seen = at;
    if (!told.length) {
      this.samples.push({ at, rate: null, running: null, waiting: null, first: null });
    } else {
      const raw = seconds ? tokens / seconds : null;
      const lately = [raw, ...this.samples.slice(1 - SMOOTH).map((sample) => sample.raw)].filter((value) => value !== null && value !== undefined);
      const rate = raw === null ? null : lately.reduce((all, value) => all + value, 0) / lately.length;
      this.samples.push({ at, raw, rate, running: sum("running"), waiting: sum("waiting"), first: count > 0 ? spent / count : null });
    }
    this.samples = this.samples.filter((sample) => at - sample.at <= WINDOW);
    this.measured = this.measured.filter((dot) => at - dot.at <= WINDOW);
  }

  /** A first token that came in this page, after so many seconds. */
  measure(seconds) {
    this.measured.push({ at: this.seen, seconds });
  }

  line(name) {
    return this.samples.map((sample) => [this.seen - sample.at, sample[name]]);
  }

  /** Where it is told only now and then: those moments alone. */
  known(name) {
    return this.line(name).filter(([, value]) => value !== null);
  }

  dots() {
    return this.measured.map(({ at, seconds }) => [this.seen - at, seconds]);
  }

  last() {
    return this.samples.at(-1) ?? { rate: null, running: null, waiting: null, first: null };
  }

  peak(name) {
    return Math.max(0, ...this.samples.map((sample) => sample[name] ?? 0));
  }
}

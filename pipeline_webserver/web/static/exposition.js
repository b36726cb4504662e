/* Prometheus text, and what two readings of it tell of the time between them, pure. It must never know where it
   comes from. */

/** @typedef {{name: string, labels: Record<string, string>, value: number}} Sample */

const LINE = /^([A-Za-z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

const numberOf = (word) => (/^[+-]?Inf/.test(word) ? (word.startsWith("-") ? -Infinity : Infinity) : Number(word));

const unescaped = (text) => text.replace(/\\(.)/g, (_, letter) => (letter === "n" ? "\n" : letter));

/** @returns {Sample[]} */
export function parse(text) {
  const samples = [];
  for (const line of text.split("\n")) {
    const found = line.startsWith("#") ? null : LINE.exec(line);
    if (!found) continue;
    const labels = {};
    for (const [, name, value] of (found[2] ?? "").matchAll(LABEL)) labels[name] = unescaped(value);
    samples.push({ name: found[1], labels, value: numberOf(found[3]) });
  }
  return samples;
}

/** Whether a sample has these labels, whatever others it has. */
const has = (sample, labels) => Object.entries(labels).every(([name, value]) => sample.labels[name] === value);

/** The sum over all series of a name that have these labels. */
export function total(samples, name, labels = {}) {
  const series = samples.filter((sample) => sample.name === name && has(sample, labels));
  return series.reduce((sum, sample) => sum + sample.value, 0);
}

/**
 * How many more there are in each bucket of a histogram, the buckets cumulative and in order.
 * @returns {{upTo: number, count: number}[]}
 */
export function bucketsBetween(before, after, name, labels = {}) {
  const bounds = after
    .filter((sample) => sample.name === `${name}_bucket` && has(sample, labels))
    .map(({ labels: { le } }) => le);
  const counted = (samples, le) => total(samples, `${name}_bucket`, { ...labels, le });
  const buckets = bounds.map((le) => ({ upTo: numberOf(le), count: counted(after, le) - counted(before, le) }));
  return buckets.sort((one, other) => one.upTo - other.upTo);
}

/**
 * What a share of all were not above, by a straight line within its bucket; null if there were none.
 * @param {number} share  from 0 to 1
 */
export function quantile(share, buckets) {
  const all = buckets.at(-1)?.count ?? 0;
  if (all <= 0) return null;
  let from = 0;
  let below = 0;
  for (const { upTo, count } of buckets) {
    if (count >= share * all) {
      if (upTo === Infinity) return from; // beyond the last bound nothing is known
      return from + (upTo - from) * ((share * all - below) / (count - below || 1));
    }
    from = upTo;
    below = count;
  }
  return null;
}

/** The mean of what a histogram saw between two readings; null if that was nothing. */
export function meanBetween(before, after, name, labels = {}) {
  const more = (suffix) => total(after, name + suffix, labels) - total(before, name + suffix, labels);
  return more("_count") > 0 ? more("_sum") / more("_count") : null;
}

const REQUESTS = "pipeline_request_seconds";
const MODEL = { route: "/" };

/**
 * What happened between two readings.
 * @param {Sample[]} before
 * @param {Sample[]} after
 * @param {number} seconds
 */
export function between(before, after, seconds) {
  const requests = total(after, `${REQUESTS}_count`, MODEL) - total(before, `${REQUESTS}_count`, MODEL);
  if (requests < 0) return between([], after, Infinity); // the server has begun anew
  const buckets = bucketsBetween(before, after, REQUESTS, MODEL);
  const inMs = (s) => (s === null ? null : 1000 * s);
  return {
    requestsPerSecond: requests / seconds,
    p50Ms: inMs(quantile(0.5, buckets)),
    p99Ms: inMs(quantile(0.99, buckets)),
    batchSize: meanBetween(before, after, "pipeline_batch_size"),
    inHouse: total(after, "pipeline_in_house"),
  };
}

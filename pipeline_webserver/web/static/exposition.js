/* Prometheus text, and the rates between two scrapes of it, pure. It must never know where it comes from. */

/** @typedef {{name: string, labels: Record<string, string>, value: number}} Sample */

const LINE = /^([A-Za-z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

const numberOf = (word) => (/^[+-]?Inf/.test(word) ? (word.startsWith("-") ? -Infinity : Infinity) : Number(word));

const unescaped = (text) => text.replace(/\\(.)/g, (_, letter) => (letter === "n" ? "\n" : letter));

/** @returns {Sample[]} */
export function parse(text) {
  const samples = [];
  for (const line of text.split("\n")) {
    const match = line.startsWith("#") ? null : LINE.exec(line);
    if (!match) continue;
    const labels = {};
    for (const [, name, value] of (match[2] ?? "").matchAll(LABEL)) labels[name] = unescaped(value);
    samples.push({ name: match[1], labels, value: numberOf(match[3]) });
  }
  return samples;
}

/** Whether a sample has these labels, or one of several values of each, whatever others it has. */
const has = (sample, labels) =>
  Object.entries(labels).every(([name, values]) => [values].flat().includes(sample.labels[name]));

/** The sum over all series of a name that have these labels. */
export function total(samples, name, labels = {}) {
  const series = samples.filter((sample) => sample.name === name && has(sample, labels));
  return series.reduce((sum, sample) => sum + sample.value, 0);
}

/**
 * The increase of each bucket of a histogram; the buckets are cumulative and in order.
 * @returns {{upTo: number, count: number}[]}
 */
export function bucketIncrease(before, after, name, labels = {}) {
  const series = after.filter((sample) => sample.name === `${name}_bucket` && has(sample, labels));
  const bounds = [...new Set(series.map(({ labels: { le } }) => le))];
  const countOf = (samples, le) => total(samples, `${name}_bucket`, { ...labels, le });
  const buckets = bounds.map((le) => ({ upTo: numberOf(le), count: countOf(after, le) - countOf(before, le) }));
  return buckets.sort((one, other) => one.upTo - other.upTo);
}

/**
 * A quantile of a histogram, linear within its bucket; null if the histogram is empty.
 * @param {number} share  from 0 to 1
 */
export function quantile(share, buckets) {
  const all = buckets.at(-1)?.count ?? 0;
  if (all <= 0) return null;
  let lower = 0;
  let below = 0;
  for (const { upTo, count } of buckets) {
    if (count >= share * all) {
      if (upTo === Infinity) return lower; // beyond the last bound nothing is known
      return lower + (upTo - lower) * ((share * all - below) / (count - below || 1));
    }
    lower = upTo;
    below = count;
  }
  return null;
}

/** The mean of what a histogram observed between two scrapes; null if that was nothing. */
export function meanIncrease(before, after, name, labels = {}) {
  const increase = (suffix) => total(after, name + suffix, labels) - total(before, name + suffix, labels);
  return increase("_count") > 0 ? increase("_sum") / increase("_count") : null;
}

const REQUESTS = "pipeline_request_seconds";
const INFERENCE = { route: ["/", "/v1/embeddings"] };
// Refusals are quick, and would hide how long the answers take.
const ANSWERED = { ...INFERENCE, status: ["200", "504"] };

/**
 * What happened between two scrapes.
 * @param {Sample[]} before
 * @param {Sample[]} after
 * @param {number} seconds
 */
export function rates(before, after, seconds) {
  const requests = total(after, `${REQUESTS}_count`, INFERENCE) - total(before, `${REQUESTS}_count`, INFERENCE);
  if (requests < 0) return rates([], after, Infinity); // the server has restarted
  const buckets = bucketIncrease(before, after, REQUESTS, ANSWERED);
  const inMs = (s) => (s === null ? null : 1000 * s);
  return {
    requestsPerSecond: requests / seconds,
    p50Ms: inMs(quantile(0.5, buckets)),
    p99Ms: inMs(quantile(0.99, buckets)),
    batchSize: meanIncrease(before, after, "pipeline_batch_size"),
    inputsInFlight: total(after, "pipeline_inputs_in_flight"),
  };
}

/* How numbers are written: scores and durations. It must never know elements. */

/** A share of one in percent: "25.3 %"; more than nothing is never "0.0 %". */
export function percent(share) {
  const percentage = 100 * share;
  if (percentage > 0 && percentage < 0.1) return "< 0.1 %";
  return `${percentage.toFixed(1)} %`;
}

/** Milliseconds with so many significant digits: "0.42 ms", "12.3 ms", "1.25 s". */
export function duration(ms, digits = 3) {
  const [number, unit] = ms >= 999.5 ? [ms / 1000, "s"] : [ms, "ms"];
  return `${Number(number.toPrecision(digits))} ${unit}`;
}

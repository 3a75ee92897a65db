// Numbers for people, as clockworker-top writes them.

export function count(value) {
  for (const [limit, unit] of [[1e3, ""], [1e6, "k"], [1e9, "M"]]) {
    if (value < 0.9995 * limit) {
      const scaled = value / (limit / 1e3);
      return (!unit || scaled >= 99.95 ? scaled.toFixed(0) : scaled.toFixed(1)) + unit;
    }
  }
  return (value / 1e9).toFixed(1) + "G";
}

// Of the few, a tenth is something too.
export function rate(perSecond) {
  return perSecond >= 0.05 && perSecond < 9.95 ? perSecond.toFixed(1) : count(perSecond);
}

export function percent(part) {
  return (100 * part).toFixed(1) + " %";
}

export function whole(part) {
  return Math.round(100 * part) + " %";
}

export function cores(value) {
  return value.toFixed(value < 9.995 ? 2 : 1) + " cores";
}

export function bytes(value) {
  if (value < 1 << 20) return Math.round(value / 1024) + " KiB";
  if (value < 1 << 30) return Math.round(value / (1 << 20)) + " MiB";
  return (value / (1 << 30)).toFixed(1) + " GiB";
}

export function duration(ns) {
  if (ns === 0) return "0";
  for (const [limit, unit] of [[1e3, "ns"], [1e6, "µs"], [1e9, "ms"]]) {
    if (ns < 0.9995 * limit) {
      const scaled = ns / (limit / 1e3);
      return (unit === "ns" || scaled >= 99.95 ? scaled.toFixed(0) : scaled.toFixed(1)) + " " + unit;
    }
  }
  return (ns / 1e9).toFixed(1) + " s";
}

export function uptime(seconds) {
  const two = (value) => String(Math.floor(value)).padStart(2, "0");
  const clock = `${two((seconds / 3600) % 24)}:${two((seconds / 60) % 60)}:${two(seconds % 60)}`;
  const days = Math.floor(seconds / 86400);
  return days ? `${days} d ${clock}` : clock;
}

export function time(seconds) {
  return new Date(1000 * seconds).toLocaleTimeString([], { hour12: false });
}

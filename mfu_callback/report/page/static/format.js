// Numbers and names as people read them.

export const UNKNOWN = '–';

export function number(value, digits = 4) {
  if (value === null || value === undefined) return UNKNOWN;
  if (value !== 0 && (Math.abs(value) < 1e-4 || Math.abs(value) >= 1e15)) return value.toExponential(3);
  return value.toLocaleString('en', { maximumSignificantDigits: Math.max(digits, Math.ceil(Math.log10(Math.abs(value) + 1))) });
}

export function percent(share) {
  return share === null || share === undefined ? UNKNOWN : `${(100 * share).toFixed(1)} %`;
}

export function rate(flopsPerSec) {
  return flopsPerSec ? `${number(flopsPerSec / 1e12)} TFLOP/s` : UNKNOWN;
}

// As the terminal writes it: "41 ms", "4.1 ms", "1.04 s".
export function seconds(value) {
  if (value === null || value === undefined) return UNKNOWN;
  if (value >= 1) return `${number(value, 3)} s`;
  return value >= 0.01 ? `${(1000 * value).toFixed(0)} ms` : `${number(1000 * value, 2)} ms`;
}

export function flops(count) {
  return count.toExponential(3);
}

// Plotly reads some HTML in its texts; a name is never HTML.
export function plain(text) {
  return String(text).replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}

// An element with attributes, properties that start with "on" or are in `node`, and children; text is only ever text.
export function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// The charts: pure functions from data to what Plotly draws and to the sentence that a screen reader says.
import { flops, number, percent, plain, rate } from './format.js';

// Colors that people who see few can tell apart (Okabe and Ito, 2008), and dashes for the next eight runs.
const COLORS = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#7f7f7f', '#b8a900'];
const DASHES = ['solid', 'dash', 'dot', 'dashdot', 'longdash', 'longdashdot'];
const MOST_SAID = 8;
const GOOD = COLORS[2];
export const BAD = COLORS[1];

export function colorOf(index) {
  return COLORS[index % COLORS.length];
}

function dashOf(index) {
  return DASHES[Math.floor(index / COLORS.length) % DASHES.length];
}

// The mean of the points so far, those of late weighing more: exponential, and without a bias towards the first.
export function smoothed(values, weight) {
  let sum = 0;
  let total = 0;
  return values.map((value) => {
    sum = weight * sum + (1 - weight) * value;
    total = weight * total + (1 - weight);
    return total > 0 ? sum / total : value;
  });
}

// Each axis with its name in the list and its title; those named by a tag are sums since the job began.
export const AXES = {
  step: ['step', 'step'],
  time: ['wall time', 'minutes since the first point'],
  'total/tokens': ['tokens', 'tokens since the job began'],
  'total/samples': ['samples', 'samples since the job began'],
  'total/flops': ['FLOPs', 'model FLOPs since the job began'],
  'total/device_hours': ['device hours', 'device hours since the job began'],
};

export const SUMS = Object.keys(AXES).filter((axis) => axis.includes('/'));

// sum: the points of the axis's tag, in the same run.
function along(series, axis, sum) {
  if (SUMS.includes(axis)) return series.steps.map((step) => between(sum, step));
  if (axis === 'step' || !series.wall_times.length) return series.steps;
  return series.wall_times.map((time) => (time - series.wall_times[0]) / 60);
}

// The value at a step, on the straight line between the points around it; null outside of them.
function between({ steps, values }, step) {
  const after = steps.findIndex((other) => other >= step);
  if (after < 0 || (after === 0 && steps[0] !== step)) return null;
  if (steps[after] === step) return values[after];
  const share = (step - steps[after - 1]) / (steps[after] - steps[after - 1]);
  return values[after - 1] + share * (values[after] - values[after - 1]);
}

function axisTitle(axis) {
  return AXES[axis][1];
}

function last(values) {
  return values[values.length - 1];
}

// runs: [{name, index}]; curves: by run; sums: by run, the points of the axis's tag. A run without these is not drawn.
export function curvesChart(runs, curves, { axis, sums, smoothing, title }) {
  const drawn = runs.filter(({ name }) => curves[name]?.values.length && (!SUMS.includes(axis) || sums[name]));
  const data = drawn.map(({ name, index }) => ({
    type: 'scatter',
    mode: curves[name].values.length > 1 ? 'lines' : 'markers',
    name: plain(name),
    x: along(curves[name], axis, sums[name]),
    y: smoothed(curves[name].values, smoothing),
    line: { color: colorOf(index), dash: dashOf(index), width: 2 },
  }));
  const said = drawn.map(({ name }) => `${name} ${number(last(curves[name].values))}`);
  return {
    data,
    layout: {
      showlegend: true,
      xaxis: { title: { text: axisTitle(axis) } },
      yaxis: { title: { text: title }, rangemode: 'tozero' },
    },
    description: said.length ? `${title} of ${said.length} runs, the last values: ${listed(said)}.` : null,
  };
}

// Not more of them than one listens to.
export function listed(texts, between = ', ') {
  const said = texts.slice(0, MOST_SAID).join(between);
  return texts.length > MOST_SAID ? `${said} and ${texts.length - MOST_SAID} more` : said;
}

// parts: rows with name, label, color, in the order in which they are stacked.
export function waterfallChart(waterfall, parts, { axis, sum }) {
  const shown = !SUMS.includes(axis) || sum ? logged(waterfall, parts) : [];
  const x = shown.length ? along(waterfall, axis, sum) : [];
  const data = shown.map(({ name, label, color }) => ({
    type: 'scatter',
    mode: 'lines',
    stackgroup: 'machine',
    name: label,
    x,
    y: waterfall.parts[name],
    line: { color, width: 0.5 },
    fillcolor: color,
    hovertemplate: '%{y:.1%}',
  }));
  const layout = {
    showlegend: true,
    hovermode: 'x unified',
    xaxis: { title: { text: axisTitle(axis) } },
    yaxis: { title: { text: 'share of the machine' }, range: [0, 1], tickformat: '.0%' },
  };
  const description = shown.length ? `Where the machine went over ${waterfall.steps.length} points, stacked to 1.` : null;
  return { data, layout, description };
}

function logged(waterfall, parts) {
  return parts.filter(({ name }) => waterfall.parts[name]?.length);
}

export function lastWaterfallChart(waterfall, parts) {
  const shown = logged(waterfall, parts);
  const chart = sharesChart(shown, shown.map(({ name }) => last(waterfall.parts[name])));
  return { ...chart, description: shown.length ? `At step ${last(waterfall.steps)}: ${chart.said}.` : null };
}

// What the part "kernels" consists of; kernels: shares by name.
export function kernelsChart(kernels, parts) {
  const shown = parts.filter(({ name }) => kernels?.[name] !== undefined);
  const chart = sharesChart(shown, shown.map(({ name }) => kernels[name]));
  return { ...chart, description: shown.length ? `Of the machine: ${chart.said}.` : null };
}

function sharesChart(parts, shares) {
  const labels = parts.map(({ label }) => label);
  return {
    data: [bars(labels, shares, shares.map(percent), parts.map(({ color }) => color))],
    layout: { xaxis: { tickformat: '.0%', rangemode: 'tozero' }, yaxis: { autorange: 'reversed', automargin: true } },
    said: labels.map((label, index) => `${label} ${percent(shares[index])}`).join(', '),
  };
}

function bars(labels, values, texts, color) {
  return {
    type: 'bar',
    orientation: 'h',
    x: values,
    y: labels,
    text: texts,
    textposition: 'auto',
    textangle: 0,
    marker: { color },
    hovertemplate: '%{y}: %{text}<extra></extra>',
  };
}

// modules: rows of a record with name, modules, flops.
export function modulesChart(modules) {
  const total = modules.reduce((sum, { flops }) => sum + flops, 0);
  const rows = modules.filter(({ flops }) => flops > 0).sort((a, b) => b.flops - a.flops).slice(0, 20);
  const labels = rows.map(({ name, modules: count }) => plain(`${name || '(itself)'}${count > 1 ? ` x ${count}` : ''}`));
  const texts = rows.map(({ flops: count }) => `${flops(count)} (${percent(count / total)})`);
  return {
    data: [bars(labels, rows.map(({ flops }) => flops), texts, COLORS[0])],
    layout: {
      xaxis: { title: { text: 'FLOPs of a forward pass' } },
      yaxis: { autorange: 'reversed', automargin: true, type: 'category' },
    },
    description: rows.length
      ? `FLOPs of the forward pass by module: ${rows.slice(0, 5).map(({ name, flops }) => `${name || '(itself)'} ${percent(flops / total)}`).join(', ')}.`
      : null,
  };
}

// The roofline model: Williams, Waterman and Patterson, 2009, https://doi.org/10.1145/1498765.1498785.
export function rooflineChart(runs) {
  const points = runs.filter(({ roofline }) => roofline);
  if (!points.length) return { data: [], layout: {}, description: null };
  const intensities = points.map(({ roofline }) => roofline.intensity);
  const span = [Math.min(1, ...intensities) / 2, Math.max(1000, ...intensities) * 2];
  const roofs = new Map();
  for (const { roofline } of points) roofs.set(`${roofline.device} ${roofline.peak}`, roofline);
  const data = [...roofs.values()].flatMap((roof) => roofLines(roof, span));
  for (const { name, index, roofline } of points) {
    data.push({
      type: 'scatter',
      mode: 'markers',
      name: plain(name),
      x: [roofline.intensity],
      y: [roofline.flops_per_sec],
      marker: { color: colorOf(index), size: 11, symbol: index % 40 },
    });
  }
  return {
    data,
    layout: {
      showlegend: true,
      xaxis: { type: 'log', title: { text: 'FLOPs per byte of weights and gradients moved' } },
      yaxis: { type: 'log', title: { text: 'FLOP/s of one device' } },
    },
    description: rooflineText(points),
  };
}

function rooflineText(points) {
  const said = points.map(({ name, roofline }) => {
    const { flops_per_sec: reached, peak, intensity } = roofline;
    return `${name} ${rate(reached)} of ${rate(peak)} at ${number(intensity, 3)} FLOPs/byte`;
  });
  const slope = points.some(({ roofline }) => roofline.bandwidth) ? '' : ' The memory bandwidth is not known here, so that the roof has no slope.';
  return `${listed(said)}. Activations are moved too: a run lies at this place or to the left of it.${slope}`;
}

function roofLines({ device, peak, achievable, bandwidth }, [from, to]) {
  const line = (name, x, y, dash) => ({
    type: 'scatter',
    mode: 'lines',
    name: plain(name),
    x,
    y,
    line: { color: '#7f7f7f', dash, width: 2 },
  });
  const ridge = bandwidth ? peak / bandwidth : null;
  const isInside = ridge !== null && ridge > from;
  const x = isInside ? [from, ridge, Math.max(to, ridge * 2)] : [from, to];
  const lines = [line(`${device}: peak`, x, isInside ? [from * bandwidth, peak, peak] : [peak, peak], 'solid')];
  if (achievable && achievable !== peak) lines.push(line(`${device}: achievable`, [from, to], [achievable, achievable], 'dash'));
  return lines;
}

// finder: of a record; its sweep, or where there is none its trials.
export function finderChart(finder) {
  if (finder.sweep?.length) return sweepChart(finder);
  const trials = finder.trials.filter(({ peak_bytes: bytes }) => bytes);
  const of = (fits) => trials.filter((trial) => trial.fits === fits);
  return {
    data: [true, false].map((fits) => ({
      type: 'scatter',
      mode: 'markers',
      name: fits ? 'fits' : 'does not fit',
      x: of(fits).map(({ size }) => size),
      y: of(fits).map(({ peak_bytes: bytes }) => bytes / 2 ** 30),
      marker: { color: fits ? GOOD : BAD, symbol: fits ? 'circle' : 'x', size: 10 },
    })),
    layout: {
      showlegend: true,
      xaxis: { title: { text: `batch size (found: ${finder.batch_size})` } },
      yaxis: { title: { text: 'peak memory of the trial, GiB' }, rangemode: 'tozero' },
    },
    description: trials.length ? `${finder.trials.length} trials; the batch size found is ${finder.batch_size}.` : null,
  };
}

function sweepChart({ sweep, batch_size: chosen }) {
  const hasTokens = sweep.every(({ tokens_per_sec: tokens }) => tokens !== null);
  const sizes = sweep.map(({ size }) => size);
  const line = (name, y, yaxis, color, dash) => ({ type: 'scatter', mode: 'lines+markers', name, x: sizes, y, yaxis, line: { color, dash } });
  const speed = hasTokens ? 'tokens/s' : 'samples/s';
  return {
    data: [
      line(speed, sweep.map((point) => (hasTokens ? point.tokens_per_sec : point.samples_per_sec)), 'y', COLORS[0], 'solid'),
      line('MFU', sweep.map(({ mfu }) => mfu), 'y2', GOOD, 'dash'),
      line('peak memory, GiB', sweep.map(({ peak_bytes: bytes }) => bytes && bytes / 2 ** 30), 'y3', COLORS[3], 'dot'),
    ],
    layout: {
      showlegend: true,
      xaxis: { type: 'log', title: { text: `batch size (chosen: ${chosen})` }, domain: [0, 0.8], tickvals: sizes },
      yaxis: { title: { text: speed }, rangemode: 'tozero' },
      yaxis2: { title: { text: 'MFU' }, overlaying: 'y', side: 'right', rangemode: 'tozero' },
      yaxis3: { title: { text: 'GiB' }, overlaying: 'y', side: 'right', anchor: 'free', position: 0.95, rangemode: 'tozero' },
      shapes: [{ type: 'line', x0: chosen, x1: chosen, yref: 'paper', y0: 0, y1: 1, line: { dash: 'dot', color: '#7f7f7f' } }],
    },
    description: `Throughput by batch size, from ${sizes[0]} to ${last(sizes)}; chosen is ${chosen}.`,
  };
}

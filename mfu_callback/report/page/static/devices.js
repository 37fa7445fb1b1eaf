// The chart of a run's devices: a bar for each, and a frame around the one that the others wait for.
import { BAD, listed } from './charts.js';
import { plain, seconds } from './format.js';

const HATCHED = { shape: '/', size: 7, solidity: 0.15, fillmode: 'overlay', fgcolor: '#5a4a00' };
const BAR_HEIGHT = 26; // pixels of the chart for each device
const MOST_CHARACTERS = 40; // of a device's name beside its bar

// devices: rows with rank, name, seconds by phase; phases: rows with name, label, color; slowest: a rank, or null.
export function devicesChart(devices, phases, slowest, count) {
  const isSlowest = ({ rank }) => rank === slowest;
  const labels = devices.map((device) => plain(short(device.name)) + (isSlowest(device) ? ' (sets the pace)' : ''));
  const rows = devices.map((_, index) => index);
  const data = phases.map(({ name, label, color }) => ({
    type: 'bar',
    orientation: 'h',
    name: label,
    x: devices.map(({ seconds: of }) => of[name] ?? 0),
    y: rows,
    customdata: devices.map(({ name: of, seconds: sec }) => [plain(of), seconds(sec[name])]),
    marker: { color, line: { width: 0 }, pattern: name === 'waits' ? HATCHED : undefined },
    hovertemplate: '%{customdata[0]}: %{customdata[1]}',
  }));
  const ticktext = labels.map((label, index) => (isSlowest(devices[index]) ? `<b>${label}</b>` : label));
  const said = devices.map((device, index) => `${labels[index]} ${saidOfDevice(device)}`);
  const left = count > devices.length ? ` Shown are ${devices.length} of ${count} devices: those that wait least.` : '';
  return {
    data,
    layout: {
      barmode: 'stack',
      showlegend: true,
      legend: { orientation: 'h', y: 1, yanchor: 'bottom', x: 0, traceorder: 'normal' },
      xaxis: { title: { text: 'seconds of a step' }, rangemode: 'tozero' },
      yaxis: { autorange: 'reversed', automargin: true, tickvals: rows, ticktext, showgrid: false },
      shapes: devices.flatMap((device, index) => (isSlowest(device) ? [frameAround(index)] : [])),
    },
    height: 150 + BAR_HEIGHT * devices.length,
    description: devices.length ? `Seconds of a step by device: ${listed(said, '; ')}.${left}` : null,
  };
}

function frameAround(row) {
  return { type: 'rect', xref: 'paper', x0: 0, x1: 1, y0: row - 0.47, y1: row + 0.47, layer: 'below', line: { color: BAD, width: 2 } };
}

function saidOfDevice({ seconds: of }) {
  const whole = Object.values(of).reduce((sum, one) => sum + one, 0);
  return `${seconds(whole)}, ${seconds(of.waits)} of it waiting`;
}

function short(text) {
  return text.length > MOST_CHARACTERS ? `${text.slice(0, MOST_CHARACTERS - 1)}…` : text;
}

// What is shown of the selected run alone, beside charts: what to do about each part, the operators, memory and clocks.
import { element, flops, percent, seconds } from './format.js';
import { cells, sorted, sortHeads } from './sortable.js';

const WORTH_A_REMEDY = 0.01; // as in the terminal

const amount = (count) => (count ? flops(count) : '–');

// What a column shows of an operator, and what it is sorted by.
export const OPERATOR_COLUMNS = [
  { title: 'operator', value: (one) => one.name, isText: true },
  { title: 'kind', value: (one) => one.kind, isText: true },
  { title: 'phase', value: (one) => one.phase, isText: true },
  { title: 'calls', value: (one) => one.calls },
  { title: 'time', value: (one) => one.sec, text: (one) => seconds(one.sec) },
  { title: 'share', value: (one) => one.share, text: (one) => percent(one.share) },
  { title: 'FLOPs', value: (one) => one.flops, text: (one) => amount(one.flops) },
  { title: 'bytes', value: (one) => one.bytes, text: (one) => amount(one.bytes) },
  { title: 'of its roofline', value: (one) => one.roofline, text: (one) => percent(one.roofline) },
];

export function operatorsTable(operators, order, sort) {
  return element(
    'table',
    { 'aria-label': 'Operators' },
    element('thead', {}, element('tr', {}, ...sortHeads(OPERATOR_COLUMNS, order, 'operators', sort))),
    element('tbody', {}, ...sorted(operators, OPERATOR_COLUMNS, order).map((one) => element('tr', {}, ...cells(OPERATOR_COLUMNS, one)))),
  );
}

// parts: rows with name, label, color, meaning, remedy, kernels the same; shares: of the waterfall and of the kernels.
export function partsTable(parts, { waterfall, kernels, step_sec: stepSec }) {
  const isOpened = ({ name }) => name === 'kernels' && kernels; // what to do about it is said of what it consists of
  const rows = parts.waterfall
    .filter(({ name }) => waterfall[name] !== undefined)
    .filter(({ name }) => waterfall[name] !== 0 || !['communication', 'waiting'].includes(name))
    .flatMap((part) => [
      partRow(isOpened(part) ? { ...part, remedy: null } : part, waterfall[part.name], stepSec),
      ...(isOpened(part) ? openedRows(parts.kernels, kernels, stepSec) : []),
    ]);
  const heads = [['part'], ['share', true], ['of a step', true], ['what it is'], ['what to do']];
  return element(
    'table',
    { 'aria-label': 'What to do about each part' },
    element('thead', {}, element('tr', {}, ...heads.map(([title, isNumber]) => element('th', { scope: 'col', class: !isNumber && 'text' }, title)))),
    element('tbody', {}, ...rows),
  );
}

function openedRows(parts, kernels, stepSec) {
  return parts.filter(({ name }) => kernels[name] !== undefined).map((part) => partRow(part, kernels[part.name], stepSec, true));
}

function partRow({ label, color, meaning, remedy }, share, stepSec, isInside = false) {
  const swatch = element('span', { class: 'swatch', style: `background:${color}`, 'aria-hidden': 'true' });
  return element(
    'tr',
    { class: isInside && 'inside' },
    element('th', { scope: 'row', class: 'text' }, isInside ? null : swatch, isInside ? null : ' ', label),
    element('td', {}, percent(share)),
    element('td', {}, stepSec ? seconds(share * stepSec) : '–'),
    element('td', { class: 'text wraps' }, meaning),
    element('td', { class: 'text wraps' }, (share >= WORTH_A_REMEDY && remedy) || '–'),
  );
}

// rows: pairs of a name and a text.
export function factsList(rows) {
  return element('dl', {}, ...rows.flatMap(([name, text]) => [element('dt', {}, name), element('dd', {}, text)]));
}
